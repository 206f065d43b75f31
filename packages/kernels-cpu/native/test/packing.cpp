// Packing by words against packing by elements, and packed weights on disk.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "checksum.h"
#include "memory.h"
#include "packed.h"
#include "packing.h"
#include "repack.h"
#include "testing.h"

using namespace lowbit;

namespace {

uint32_t draw() { return next() >> 8; }

uint64_t sum_of(const char* text) { return checksum(reinterpret_cast<const uint8_t*>(text), std::strlen(text)); }

void test_checksum() {
  // Vectors of the algorithm's author and of python-xxhash.
  expect(sum_of("") == 0xEF46DB3751D8E999, "checksum of nothing");
  expect(sum_of("a") == 0xD24EC4F1A98C6E5B, "checksum of a");
  expect(sum_of("abc") == 0x44BC2CF5AD770999, "checksum of abc");
  expect(sum_of("Nobody inspects the spammish repetition") == 0xFBCEA83C8A378BF1, "checksum of a sentence");
}

struct Case {
  Kind kind;
  Codes codes;
  int bits;
  size_t out, inp, block, classes;
};

/// Memory of just the size that is needed: a sanitizer sees a read beyond it.
std::vector<uint8_t> in_order(const std::vector<uint8_t>& codes, PackedCodes& packed, PackedCodes::Order order, int bits) {
  packed.order = order;
  std::vector<uint8_t> bytes;
  if (order == PackedCodes::Order::bytes) {
    bytes = codes;
  } else if (order == PackedCodes::Order::nibbles) {
    bytes.assign((codes.size() + 1) / 2, 0);
    for (size_t i = 0; i < codes.size(); ++i) bytes[i / 2] = static_cast<uint8_t>(bytes[i / 2] | codes[i] << (i % 2 == 0 ? 4 : 0));
  } else {
    packed.bits = bits;
    packed.word_bytes = bits == 3 ? 4 : 1;
    packed.lanes = bits == 3 ? 10 : static_cast<size_t>(8 / bits);
    packed.lane = (codes.size() + packed.lanes - 1) / packed.lanes;
    bytes.assign(packed.lane * packed.word_bytes, 0);
    for (size_t i = 0; i < codes.size(); ++i) {
      uint32_t word = 0;
      uint8_t* at = bytes.data() + i % packed.lane * packed.word_bytes;
      std::memcpy(&word, at, packed.word_bytes);
      word |= static_cast<uint32_t>(codes[i]) << bits * static_cast<int>(packed.lanes - 1 - i / packed.lane);
      std::memcpy(at, &word, packed.word_bytes);
    }
  }
  packed.data = bytes.data();
  packed.bytes = bytes.size();
  return bytes;
}

void test_repack() {
  const Case cases[] = {
      {Kind::tiles, Codes::c8, 8, 37, 132, 44, 1},  {Kind::tiles, Codes::c4, 4, 50, 192, 64, 1},   {Kind::tiles, Codes::c4, 4, 70, 100, 64, 5},
      {Kind::tiles, Codes::c3, 3, 33, 160, 32, 1},  {Kind::tiles, Codes::c3, 3, 48, 70, 64, 3},    {Kind::tiles, Codes::c2, 2, 19, 96, 48, 1},
      {Kind::tiles, Codes::c1, 1, 20, 320, 64, 1},  {Kind::tiles, Codes::table4, 4, 18, 72, 24, 1}, {Kind::int8, Codes::c8, 8, 35, 77, 64, 1},
      {Kind::grouped, Codes::c4, 4, 11, 23, 0, 1},  {Kind::grouped, Codes::c4, 1, 9, 21, 0, 1},     {Kind::grouped, Codes::c4, 8, 3, 5, 0, 1},
      {Kind::tiles, Codes::c4, 4, 4000, 256, 128, 1}};
  for (size_t i = 0; i < std::size(cases); ++i) {
    const Case& c = cases[i];
    Weight w;
    w.kind = c.kind;
    w.codes = c.codes;
    w.bits = c.bits;
    w.out = c.out;
    w.inp = c.inp;
    w.block = c.block;
    w.classes = c.classes;
    w.meta = c.kind == Kind::tiles && c.classes == 1 && c.inp % c.block == 0 ? Float::f16 : Float::none;
    w.zeros = w.meta != Float::none;
    w.axis = 1;
    w.group = 7;
    w.groups = (c.out * c.inp + 6) / 7;
    expect(plan_layout(w) == Status::ok, "layout", static_cast<long>(i));
    std::vector<uint8_t> codes(c.out * c.inp);
    for (uint8_t& code : codes) code = static_cast<uint8_t>(draw() & ((1u << c.bits) - 1));
    std::vector<uint8_t> expected(w.data_bytes, 0);
    expect(put_codes(w, expected.data(), 0, w.out, codes.data()) == Status::ok, "put_codes", static_cast<long>(i));
    std::vector<uint8_t> scale, zero;
    StoredNumbers numbers;
    if (w.zeros) {
      numbers.repeat = w.blocks % 2 == 0 ? 2 : 1;
      const size_t groups = w.out * (w.blocks / numbers.repeat);
      for (size_t g = 0; g < groups; ++g) {
        for (const uint16_t half : {to_f16(static_cast<float>(draw() % 100)), to_f16(static_cast<float>(draw() % 16))}) {
          std::vector<uint8_t>& list = scale.size() <= zero.size() ? scale : zero;
          list.push_back(static_cast<uint8_t>(half));
          list.push_back(static_cast<uint8_t>(half >> 8));
        }
      }
      numbers.scale = scale.data();
      numbers.zero = zero.data();
      for (size_t row = 0; row < w.out; ++row) {
        for (size_t b = 0; b < w.blocks; ++b) {
          const size_t g = row * (w.blocks / numbers.repeat) + b / numbers.repeat;
          const auto half = [&](const std::vector<uint8_t>& from) { return from_f16(static_cast<uint16_t>(from[2 * g] | from[2 * g + 1] << 8)); };
          put_numbers(w, expected.data(), row, b, half(scale), half(zero));
        }
      }
    }
    for (const auto order : {PackedCodes::Order::bytes, PackedCodes::Order::nibbles, PackedCodes::Order::lanes}) {
      if (order == PackedCodes::Order::nibbles && c.bits != 4) continue;
      PackedCodes packed;
      const std::vector<uint8_t> bytes = in_order(codes, packed, order, c.bits);
      expect(has_codes(packed, codes.size()), "has_codes", static_cast<long>(i), static_cast<long>(order));
      packed.bytes -= packed.word_bytes;
      expect(!has_codes(packed, codes.size()), "too few codes are seen", static_cast<long>(i), static_cast<long>(order));
      packed.bytes += packed.word_bytes;
      for (const int threads : {1, 3}) {
        Pool pool(threads);
        std::vector<uint8_t> data(w.data_bytes, 0);
        expect(Repack(w, data.data(), packed, numbers, 256).run(pool), "repack", static_cast<long>(i), static_cast<long>(order));
        expect(data == expected, "repack gives the bytes of put_codes", static_cast<long>(i), static_cast<long>(order));
      }
    }
    if (c.bits < 8) {
      PackedCodes packed;
      std::vector<uint8_t> wide = codes;
      if (!wide.empty()) wide.back() = static_cast<uint8_t>(1 << c.bits);
      const std::vector<uint8_t> bytes = in_order(wide, packed, PackedCodes::Order::bytes, c.bits);
      Pool pool(2);
      std::vector<uint8_t> data(w.data_bytes, 0);
      expect(!Repack(w, data.data(), packed, numbers, 256).run(pool), "a code without a place is refused", static_cast<long>(i));
    }
  }
}

void test_files() {
  char folder[] = "/tmp/lowbit-packing-XXXXXX";
  expect(mkdtemp(folder) != nullptr, "a folder");
  const std::string base = folder;
  std::vector<PackedRead> reads;
  std::vector<std::vector<uint8_t>> contents;
  for (const size_t bytes : {size_t{64}, size_t{3} << 20, size_t{1000}, (size_t{1} << 20) + 5}) {
    std::vector<uint8_t> data(bytes);
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(draw());
    PackedRead read;
    read.path = base + "/" + std::to_string(bytes);
    read.key.fill(static_cast<uint8_t>(bytes));
    read.bytes = (bytes + 63) / 64 * 64 + 64;
    const uint8_t tail[8] = {1, 2, 3};
    write_packed(read.path, read.key, "text", {{data.data(), bytes}, {tail, sizeof tail}});
    contents.push_back(std::move(data));
    reads.push_back(std::move(read));
  }
  PackedRead missing;
  missing.path = base + "/nothing";
  missing.key.fill(1);
  missing.bytes = 64;
  reads.push_back(missing);
  for (const bool mapped : {false, true}) {
    Pool pool(3);
    std::vector<PackedRead> wanted = reads;
    read_packed(wanted, mapped, pool);
    for (size_t i = 0; i < contents.size(); ++i) {
      expect(wanted[i].verdict == Verdict::ok, "a file is read", static_cast<long>(i), mapped);
      if (wanted[i].verdict != Verdict::ok) continue;
      expect(reinterpret_cast<uintptr_t>(wanted[i].data) % 64 == 0, "aligned", static_cast<long>(i));
      expect(std::memcmp(wanted[i].data, contents[i].data(), contents[i].size()) == 0, "as it was written", static_cast<long>(i), mapped);
      wanted[i].home = nullptr;  // the others stay
    }
    expect(wanted.back().verdict == Verdict::missing, "a missing file");
  }
  bool refused = false;
  try {
    write_packed(reads[0].path, reads[0].key, "", {});
  } catch (const FileError&) {
    refused = true;
  }
  expect(refused, "a file that is there is not replaced");
  {
    std::fstream file(reads[1].path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(4096 + (2 << 20));
    file.put('x').put('y');
  }
  reads[2].key.fill(9);
  reads[3].bytes += 64;
  for (const bool mapped : {false, true}) {
    Pool pool(2);
    std::vector<PackedRead> wanted = reads;
    read_packed(wanted, mapped, pool);
    expect(wanted[0].verdict == Verdict::ok, "whole", mapped);
    expect(wanted[1].verdict == Verdict::damaged && wanted[1].home == nullptr, "damaged", mapped);
    expect(wanted[2].verdict == Verdict::foreign, "foreign", mapped);
    expect(wanted[3].verdict == Verdict::damaged, "of another length", mapped);
  }
  for (const PackedRead& read : reads) unlink(read.path.c_str());
  rmdir(folder);
}

}  // namespace

void test_packing() {
  seed = 7;
  test_checksum();
  test_repack();
  test_files();
}
