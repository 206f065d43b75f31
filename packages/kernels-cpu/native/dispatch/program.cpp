#include "program.h"

#include <algorithm>
#include <stdexcept>

#include "layout.h"
#include "memory.h"
#include "product.h"
#include "stepper.h"

namespace lowbit {
namespace {

/// What of each kind of room a program holds between steps, at most.
constexpr size_t kKeep = size_t{4} << 20;

}  // namespace

/// LLM.int8: experts of several rows run side by side.
void Program::count_outliers(size_t linear, const Product& product) {
  if (linears[linear]->kind != Kind::int8) return;
  const std::lock_guard lock(counting_);
  if (outliers_.size() < linears.size()) outliers_.resize(linears.size());
  outliers_[linear].products += 1;
  outliers_[linear].columns += product.outlier_columns();
}

/// Throws std::out_of_range for an index that is not among the rows which it names: everything after this trusts them.
void Program::check(const StepInput& input) const {
  const auto expect = [](bool holds, const char* what) {
    if (!holds) throw std::out_of_range(what);
  };
  expect(input.planes >= kMinPlanes && input.planes <= kMaxPlanes, "2 or 3 planes");
  expect(input.tokens.size() == input.rows[0], "there are not as many tokens as rows");
  for (const Op& op : ops) {
    if (op.kind != OpKind::embed) continue;
    const size_t vocabulary = linears[static_cast<size_t>(op.linear)]->out;
    for (const uint32_t token : input.tokens) expect(token < vocabulary, "a token is outside of the vocabulary");
  }
  for (const Share& share : input.shares) {
    for (int d = 0; d < kRows; ++d) {
      expect(share.from[d] <= input.rows[d] && share.count[d] <= input.rows[d] - share.from[d], "a share is outside of the rows");
    }
    expect(share.wanted.size() == share.count[1], "there are not as many wanted rows as outputs");
    for (const uint32_t wanted : share.wanted) expect(wanted < share.count[0], "a wanted row is outside of the tokens");
  }
  const auto place_of = [&](int id) {
    expect(id >= 0 && static_cast<size_t>(id) < tensors.size(), "there is no such tensor");
    return tensors[static_cast<size_t>(id)];
  };
  for (const auto& [id, values] : input.inputs) {
    const TensorPlace place = place_of(id);
    expect(values.size() <= place.width * input.rows[static_cast<size_t>(place.rows)], "an input has too many numbers");
  }
  for (const auto& [id, given] : input.injections) {
    const TensorPlace place = place_of(id);
    expect(given.second.size() == given.first.size() * place.width, "an injection has another number of rows than of places");
    for (const uint32_t at : given.first) expect(at < input.rows[static_cast<size_t>(place.rows)], "an injection is outside of the rows");
  }
}

size_t Program::place_domains(const StepInput& input) {
  size_t floats = 0;
  for (int d = 0; d < kRows; ++d) {
    rows_[d] = input.rows[d];
    arena_start_[d] = floats;
    floats += arena_width[d] * input.rows[d];
  }
  return floats;
}

void Program::step(StepInput input, const Kernels& kernels, Pool& pool) {
  check(input);
  const size_t floats = place_domains(input);
  if (arena_.size() < floats) arena_.resize(floats);
  const StepCut cut(input, kernels, pool, arena_.data());
  if (stepper_ == nullptr || !(stepper_->cut == cut)) {
    stepper_.reset();
    stepper_ = std::make_unique<Stepper>(*this, cut, input);
  }
  stepper_->run(std::move(input));
  auto product = stepper_->products.begin();
  for (const Op& op : ops) {
    if (op.kind == OpKind::linear && stepper_->rows(op.x) > 0) count_outliers(static_cast<size_t>(op.linear), *product++);
  }
}

const float* Program::tensor(int id) const {
  const TensorPlace& place = tensors[static_cast<size_t>(id)];
  const size_t domain = static_cast<size_t>(place.rows);
  return arena_.data() + arena_start_[domain] + place.offset * rows_[domain];
}

size_t Program::tensor_bytes(int id) const {
  const TensorPlace& place = tensors[static_cast<size_t>(id)];
  const size_t domain = static_cast<size_t>(place.rows);
  const size_t end = arena_start_[domain] + (place.offset + place.width) * rows_[domain];
  return end > arena_.size() ? 0 : place.width * rows_[domain] * sizeof(float);
}

void Program::fork(uint32_t from, uint32_t to, size_t length) {
  const auto found = sequences_.find(from);
  if (found == sequences_.end()) return;
  std::vector<Cache> copy;
  for (size_t i = 0; i < found->second.size(); ++i) {
    const Cache& cache = found->second[i];
    const size_t number = float_bytes(cache_dtype);
    const auto part = [](const std::vector<uint8_t>& bytes, size_t count) {
      return std::vector<uint8_t>(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(count));
    };
    const size_t rows = caches[i].encoder ? cache.rows : std::min(cache.rows, length);
    const size_t blocks = (rows + kKeys - 1) / kKeys;
    copy.push_back({part(cache.k, blocks * kKeys * caches[i].key_width * number), part(cache.v, rows * caches[i].value_width * number), rows});
  }
  sequences_[to] = std::move(copy);
}

size_t Program::cache_bytes() const {
  size_t bytes = 0;
  for (const auto& [id, caches] : sequences_) {
    for (const Cache& cache : caches) bytes += cache.k.size() + cache.v.size();
  }
  return bytes;
}

size_t Program::scratch_bytes() const {
  return arena_.size() * sizeof(float) + scratch_bytes_ + (stepper_ == nullptr ? 0 : stepper_->bytes());
}

void Program::trim() {
  if (stepper_ != nullptr && stepper_->bytes() > kKeep) stepper_.reset();
  if (scratch_bytes_ > kKeep) {
    stepper_.reset();  // its stages write there
    give_memory(scratch_, scratch_bytes_);
    scratch_ = nullptr;
    scratch_bytes_ = 0;
  }
  if (arena_.size() * sizeof(float) > kKeep) {
    stepper_.reset();
    std::vector<float>().swap(arena_);
  }
}

ProgramBytes Program::measure(const StepInput& input, const Kernels& kernels, Pool& pool) {
  check(input);
  const size_t floats = place_domains(input), arena = floats * sizeof(float);
  arena_.reserve(floats);  // pages that nobody writes to cost nothing
  Stepper stepper(*this, StepCut(input, kernels, pool, arena_.data()), input);
  stepper.turn_all();
  const size_t cache = stepper.measure_caches();
  const size_t own = stepper.bytes();
  const auto kept = [](size_t bytes) { return bytes > kKeep ? 0 : bytes; };
  // As `trim`: stages go with what they write to.
  const bool stays = kept(scratch_bytes_) == scratch_bytes_ && kept(arena) == arena;
  return {arena + scratch_bytes_ + own, kept(arena) + kept(scratch_bytes_) + (stays ? kept(own) : 0), cache};
}

Program::Program() = default;
Program::~Program() { give_memory(scratch_, scratch_bytes_); }

}  // namespace lowbit
