#include "fibers.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <stdexcept>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {
namespace {

constexpr size_t kStack = 64 << 10;

/// Memory of a stack, with a page below it that must not be touched.
struct Stack {
  char* memory = nullptr;
  size_t page = 0;

  Stack() : page(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
    void* at = mmap(nullptr, kStack + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    memory = static_cast<char*>(at);
    mprotect(memory, page, PROT_NONE);
  }
  Stack(Stack&& other) noexcept : memory(other.memory), page(other.page) { other.memory = nullptr; }
  Stack(const Stack&) = delete;
  ~Stack() {
    if (memory != nullptr) munmap(memory, kStack + page);
  }
  char* top() const { return memory + page + kStack; }
};

}  // namespace

#if defined(__x86_64__)

// The registers that a called function must leave as they were; all else the compiler takes for lost at a call. swapcontext would do, with a system
// call for each of them.
extern "C" void lowbit_switch_stack(void** save, void* load);
asm(R"(
.text
.globl lowbit_switch_stack
.hidden lowbit_switch_stack
.type lowbit_switch_stack, @function
lowbit_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size lowbit_switch_stack, .-lowbit_switch_stack
)");

struct Fibers::State {
  std::vector<Stack> stacks;
  std::vector<void*> tops;
  void* caller = nullptr;
  size_t running = 0;
  void (*body)(size_t) = nullptr;
};

namespace {
thread_local Fibers* entering = nullptr;
thread_local void (*entered)(size_t) = nullptr;
thread_local size_t entered_index = 0;

void enter() {
  Fibers* fibers = entering;
  entered(entered_index);
  for (;;) fibers->yield();
}
}  // namespace

void Fibers::start(size_t index, void (*body)(size_t)) {
  while (state_->stacks.size() <= index) {
    state_->stacks.emplace_back();
    state_->tops.push_back(nullptr);
  }
  state_->body = body;
  // As if `enter` had been called: a multiple of 16 lies above the address that a call pushes.
  void** top = reinterpret_cast<void**>(state_->stacks[index].top()) - 1;
  *top = nullptr;
  *--top = reinterpret_cast<void*>(enter);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  state_->tops[index] = top;
}

void Fibers::resume(size_t index) {
  entering = this;
  entered = state_->body;
  entered_index = index;
  state_->running = index;
  lowbit_switch_stack(&state_->caller, state_->tops[index]);
}

void Fibers::yield() { lowbit_switch_stack(&state_->tops[state_->running], state_->caller); }

#else

struct Fibers::State {
  std::vector<Stack> stacks;
  std::vector<ucontext_t> contexts;
  ucontext_t caller;
  size_t running = 0;
  void (*body)(size_t) = nullptr;
};

namespace {
thread_local Fibers* entering = nullptr;
thread_local void (*entered)(size_t) = nullptr;

void enter(unsigned index) {
  Fibers* fibers = entering;
  entered(index);
  for (;;) fibers->yield();
}
}  // namespace

void Fibers::start(size_t index, void (*body)(size_t)) {
  while (state_->stacks.size() <= index) {
    state_->stacks.emplace_back();
    state_->contexts.emplace_back();
  }
  state_->body = body;
  ucontext_t& context = state_->contexts[index];
  getcontext(&context);
  context.uc_stack.ss_sp = state_->stacks[index].memory + state_->stacks[index].page;
  context.uc_stack.ss_size = kStack;
  context.uc_link = nullptr;
  makecontext(&context, reinterpret_cast<void (*)()>(enter), 1, static_cast<unsigned>(index));
}

void Fibers::resume(size_t index) {
  entering = this;
  entered = state_->body;
  state_->running = index;
  swapcontext(&state_->caller, &state_->contexts[index]);
}

void Fibers::yield() { swapcontext(&state_->contexts[state_->running], &state_->caller); }

#endif

Fibers::Fibers() : state_(std::make_unique<State>()) {}
Fibers::~Fibers() = default;

}  // namespace emulator
