// Weights that are packed, saved and loaded off the thread of JavaScript.
#include <napi.h>

#include <algorithm>
#include <cstring>

#include "arguments.h"
#include "handles.h"
#include "jobs.h"
#include "packed.h"
#include "repack.h"
#include "weights.h"

namespace lowbit {
namespace {

/// Bytes of an array, which may be missing.
const uint8_t* bytes_of(const Napi::Value& array, size_t& count) {
  count = length_of(array);
  return array.IsTypedArray() ? elements<uint8_t>(array, count) : nullptr;
}

/// Bytes that a thread copies at a time.
constexpr size_t kPiece = size_t{1} << 20;

struct Packing : Job {
  std::shared_ptr<Machine> machine;
  std::shared_ptr<HeldWeight> held;
  PackedCodes codes;
  StoredNumbers numbers;
  unsigned entries = 256;
  bool fits = true;

  void run() override {
    uint8_t* data = held->blocks[0].data();
    if (held->weight.kind != Kind::dense) {
      fits = Repack(held->weight, data, codes, numbers, entries).run(*machine->pool);
      return;
    }
    // Plain numbers: a copy, on all threads.
    const auto work = [](const void* context, size_t chunk, int) {
      const Packing& self = *static_cast<const Packing*>(context);
      const size_t at = chunk * kPiece;
      std::memcpy(self.held->blocks[0].data() + at, self.codes.data + at, std::min(kPiece, self.held->weight.data_bytes - at));
    };
    const Stage stage{work, this, static_cast<uint32_t>((held->weight.data_bytes + kPiece - 1) / kPiece)};
    machine->pool->run(&stage, 1);
  }

  napi_value value(napi_env env) override {
    napi_value result = nullptr;
    return napi_get_boolean(env, fits, &result) == napi_ok ? result : nullptr;
  }
};

/**
 * packWeight(machine, weight, { order, data, wordBytes?, bits?, lanes?, lane?, entries?, scale?, zero?, zeroValue?, repeat? }): whether every code has a
 * place. The arrays stay as they are until it has settled.
 */
Napi::Value pack_weight(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const Napi::Env env = info.Env();
    auto job = std::make_unique<Packing>();
    job->machine = state(info).machines.shared(info[0]);
    job->held = state(info).weights.shared(info[1]);
    check(env, job->held->home == nullptr, "a weight that came from disk is not written to");
    const Weight& w = job->held->weight;
    const Napi::Object from = info[2].As<Napi::Object>();
    const auto size = [&](const char* name, size_t otherwise) {
      const Napi::Value value = from.Get(name);
      return value.IsNumber() ? size_of(value) : otherwise;
    };
    PackedCodes& codes = job->codes;
    const std::string order = from.Get("order").ToString().Utf8Value();
    check(env, order == "bytes" || order == "nibbles" || order == "lanes", "an unknown order of codes");
    codes.order = order == "bytes" ? PackedCodes::Order::bytes : order == "lanes" ? PackedCodes::Order::lanes : PackedCodes::Order::nibbles;
    codes.data = bytes_of(from.Get("data"), codes.bytes);
    codes.word_bytes = size("wordBytes", 1);
    codes.bits = static_cast<int>(std::min<size_t>(size("bits", 8), 64));
    codes.lanes = size("lanes", 1);
    codes.lane = size("lane", 0);
    const size_t entries = size("entries", 256);
    check(env, entries >= 2 && entries <= 256 && (entries & (entries - 1)) == 0, "a table has 2 to 256 entries");
    job->entries = static_cast<unsigned>(entries);
    if (w.kind == Kind::dense) {
      check(env, codes.order == PackedCodes::Order::bytes && codes.bytes >= w.data_bytes, "an array is too short");
    } else {
      check(env, w.dim == 1 && w.rotate == 0, "codes of pairs and of rotated weights come with putCodes");
      check(env, has_codes(codes, w.out * code_columns(w)), "an array is too short");
    }
    job->keep(from.Get("data"));
    StoredNumbers& numbers = job->numbers;
    if (from.Get("scale").IsTypedArray()) {
      numbers.repeat = size("repeat", 1);
      const bool inside = w.kind == Kind::tiles && w.meta != Float::none && w.blocks * w.block == w.inp;
      check(env, inside && numbers.repeat > 0 && w.blocks % numbers.repeat == 0, "this layout has no numbers inside");
      const size_t needed = w.out * (w.blocks / numbers.repeat) * float_bytes(w.meta);
      size_t count = 0;
      numbers.scale = bytes_of(from.Get("scale"), count);
      check(env, count >= needed, "an array is too short");
      numbers.zero = bytes_of(from.Get("zero"), count);
      check(env, numbers.zero == nullptr || count >= needed, "an array is too short");
      if (from.Get("zeroValue").IsNumber()) numbers.zero_value = from.Get("zeroValue").ToNumber().FloatValue();
      job->keep(from.Get("scale"));
      if (numbers.zero != nullptr) job->keep(from.Get("zero"));
    }
    return Job::start(env, std::move(job), "lowbit pack");
  });
}

PackedKey key_of(const Napi::Value& value) {
  PackedKey key;
  std::memcpy(key.data(), elements<uint8_t>(value, key.size()), key.size());
  return key;
}

struct Saving : Job {
  std::shared_ptr<HeldWeight> held;
  std::string path, text;
  PackedKey key;

  void run() override {
    std::vector<std::pair<const uint8_t*, size_t>> pieces;
    for (const Block& block : held->blocks) pieces.emplace_back(block.data(), block.bytes());
    if (held->weight.bias != nullptr) pieces.pop_back();  // the model's, not the weight's
    try {
      write_packed(path, key, text, pieces);
    } catch (const FileError& error) {
      fail("ERR_IO", error.what());
    }
  }

  napi_value value(napi_env env) override {
    napi_value result = nullptr;
    return napi_get_undefined(env, &result) == napi_ok ? result : nullptr;
  }
};

/// saveWeight(weight, path, key, text): writes a packed weight, without its bias, to a new file
Napi::Value save_weight(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto job = std::make_unique<Saving>();
    job->held = state(info).weights.shared(info[0]);
    check(info.Env(), job->held->home == nullptr, "a weight that came from disk is there already");
    job->path = info[1].ToString().Utf8Value();
    job->key = key_of(info[2]);
    job->text = info[3].ToString().Utf8Value();
    return Job::start(info.Env(), std::move(job), "lowbit save");
  });
}

size_t rounded(size_t bytes) { return (bytes + 63) / 64 * 64; }

struct Loading : Job {
  std::shared_ptr<Machine> machine;
  std::vector<std::shared_ptr<HeldWeight>> held;
  std::vector<Extras> extra;
  std::vector<PackedRead> reads;
  bool mapped = false;

  void run() override {
    read_packed(reads, mapped, *machine->pool);
    const HeldWeight* last = nullptr;  // with a table: all weights of a model tend to have one
    for (size_t i = 0; i < reads.size(); ++i) {
      if (reads[i].verdict != Verdict::ok) continue;
      HeldWeight& to = *held[i];
      Weight& w = to.weight;
      w.data = reads[i].data;
      const uint8_t* at = w.data + rounded(w.data_bytes);
      const auto floats = [&](size_t count) -> const float* {
        if (count == 0) return nullptr;
        const float* here = reinterpret_cast<const float*>(at);
        at += rounded(count * sizeof(float));
        return here;
      };
      w.scale = floats(extra[i].scale);
      w.zero = floats(extra[i].zero);
      w.table = floats(extra[i].table);
      if (w.kind == Kind::tiles && is_table(w.codes)) {
        make_tables(to, last);
        last = &to;
      }
      to.home = std::move(reads[i].home);
      to.home_bytes = mapped ? 0 : reads[i].bytes;
    }
  }

  napi_value value(napi_env env) override {
    void* data = nullptr;
    napi_value list = nullptr;
    if (napi_get_instance_data(env, &data) != napi_ok || data == nullptr) return nullptr;
    if (napi_create_array_with_length(env, reads.size(), &list) != napi_ok) return nullptr;
    static constexpr const char* kWords[] = {"ok", "missing", "unreadable", "foreign", "damaged"};
    for (size_t i = 0; i < reads.size(); ++i) {
      napi_value item = nullptr;
      if (reads[i].verdict == Verdict::ok) {
        held[i]->reported.set(env, held[i]->bytes());
        napi_create_uint32(env, static_cast<State*>(data)->weights.add(std::move(held[i])), &item);
      } else {
        napi_create_string_utf8(env, kWords[static_cast<int>(reads[i].verdict)], NAPI_AUTO_LENGTH, &item);
      }
      napi_set_element(env, list, static_cast<uint32_t>(i), item);
    }
    return list;
  }
};

/**
 * loadWeights(machine, [{ spec, path, key, bias? }], mapped): weights that saveWeight wrote, each a handle, or a word for why there is none: missing,
 * unreadable, foreign, damaged
 */
Napi::Value load_weights(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const Napi::Env env = info.Env();
    auto job = std::make_unique<Loading>();
    job->machine = state(info).machines.shared(info[0]);
    job->mapped = info[2].ToBoolean();
    const Napi::Array list = info[1].As<Napi::Array>();
    check(env, list.Length() <= job->machine->pool->most_chunks(), "too many weights at once");
    for (uint32_t i = 0; i < list.Length(); ++i) {
      const Napi::Object item = list.Get(i).As<Napi::Object>();
      const Napi::Value spec = item.Get("spec");
      auto held = std::make_shared<HeldWeight>();
      Weight& w = held->weight;
      w = planned(spec);
      if (w.kind == Kind::int8) held->threshold = spec.As<Napi::Object>().Get("threshold").ToNumber().FloatValue();
      const Extras extra = extras(w, spec);
      PackedRead read;
      read.path = item.Get("path").ToString().Utf8Value();
      read.key = key_of(item.Get("key"));
      read.bytes = rounded(w.data_bytes);
      for (const size_t count : {extra.scale, extra.zero, extra.table}) read.bytes += rounded(count * sizeof(float));
      if (item.Get("bias").IsTypedArray()) {
        const float* bias = elements<float>(item.Get("bias"), w.out);
        held->blocks.emplace_back(w.out * sizeof(float));
        std::memcpy(held->blocks.back().data(), bias, w.out * sizeof(float));
        w.bias = held->blocks.back().floats();
      }
      job->held.push_back(std::move(held));
      job->extra.push_back(extra);
      job->reads.push_back(std::move(read));
    }
    return Job::start(env, std::move(job), "lowbit load");
  });
}

/// externalBytes(): what V8 has been told of, here
Napi::Value external_bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(Reported::in_all));
}

}  // namespace

void add_packing_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("packWeight", Napi::Function::New(env, pack_weight));
  exports.Set("saveWeight", Napi::Function::New(env, save_weight));
  exports.Set("externalBytes", Napi::Function::New(env, external_bytes));
  exports.Set("loadWeights", Napi::Function::New(env, load_weights));
}

}  // namespace lowbit
