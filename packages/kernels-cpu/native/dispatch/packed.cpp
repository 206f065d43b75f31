#include "packed.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <numeric>

#include "checksum.h"
#include "memory.h"

#if defined(__linux__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#define LOWBIT_POSIX 1
#else
#include <filesystem>
#include <fstream>
#endif

namespace lowbit {
namespace {

constexpr char kMagic[8] = {'L', 'O', 'W', 'B', 'I', 'T', 'P', 'K'};
constexpr uint32_t kVersion = 1;
constexpr size_t kPiece = size_t{1} << 20;

template <class T>
T get(const uint8_t* header, size_t at) {
  T value;
  std::memcpy(&value, header + at, sizeof(T));
  return value;
}
template <class T>
void set(uint8_t* header, size_t at, T value) {
  std::memcpy(header + at, &value, sizeof(T));
}

/// Sums of pieces, as they come.
class PayloadSum {
 public:
  void add(const uint8_t* data, size_t bytes) { sums_.push_back(checksum(data, bytes)); }
  uint64_t total() const { return checksum(reinterpret_cast<const uint8_t*>(sums_.data()), sums_.size() * sizeof(uint64_t)); }

 private:
  std::vector<uint64_t> sums_;
};

#ifdef LOWBIT_POSIX

/// A file that is closed at its end.
class File {
 public:
  File(const std::string& path, int flags) {
    do fd_ = open(path.c_str(), flags | O_CLOEXEC, 0600);
    while (fd_ < 0 && errno == EINTR);
  }
  ~File() { shut(); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  bool is_open() const { return fd_ >= 0; }
  int fd() const { return fd_; }
  bool shut() {
    const int fd = std::exchange(fd_, -1);
    return fd < 0 || close(fd) == 0;
  }
  /// Bytes of a regular file; -1 of anything else.
  int64_t size() const {
    struct stat facts;
    return fstat(fd_, &facts) == 0 && S_ISREG(facts.st_mode) ? static_cast<int64_t>(facts.st_size) : -1;
  }
  bool read(uint8_t* to, size_t bytes, size_t at) const {
    while (bytes > 0) {
      const ssize_t got = pread(fd_, to, std::min(bytes, size_t{1} << 30), static_cast<off_t>(at));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return false;
      to += got;
      at += static_cast<size_t>(got);
      bytes -= static_cast<size_t>(got);
    }
    return true;
  }
  bool rewind() const { return lseek(fd_, 0, SEEK_SET) == 0; }
  bool write(const uint8_t* from, size_t bytes) const {
    while (bytes > 0) {
      const ssize_t put = ::write(fd_, from, std::min(bytes, size_t{1} << 30));
      if (put < 0 && errno == EINTR) continue;
      if (put <= 0) return false;
      from += put;
      bytes -= static_cast<size_t>(put);
    }
    return true;
  }

 private:
  int fd_ = -1;
};

constexpr int kRead = O_RDONLY | O_NONBLOCK;  // a pipe of that name would block for ever
constexpr int kCreate = O_WRONLY | O_CREAT | O_EXCL;

void remove_file(const std::string& path) { unlink(path.c_str()); }

/// The payload of an open file as memory; null where it cannot be mapped.
std::shared_ptr<const void> map_payload(const File& file, size_t bytes) {
  int flags = MAP_SHARED;
#ifdef MAP_POPULATE
  flags |= MAP_POPULATE;  // all of it is read at once, below
#endif
  const size_t whole = kPackedHeader + bytes;
  void* memory = mmap(nullptr, whole, PROT_READ, flags, file.fd(), 0);
  if (memory == MAP_FAILED) return nullptr;
  return {memory, [whole](const void* at) { munmap(const_cast<void*>(at), whole); }};
}

#else

class File {
 public:
  enum Mode { read_mode, create_mode };
  File(const std::string& path, Mode mode) : path_(std::filesystem::u8path(path)) {
    if (mode == create_mode && std::filesystem::exists(path_)) return;
    stream_.open(path_, std::ios::binary | (mode == read_mode ? std::ios::in : std::ios::out));
  }
  bool is_open() const { return stream_.is_open(); }
  bool shut() {
    stream_.close();
    return !stream_.fail();
  }
  int64_t size() const {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path_, error)) return -1;
    const auto bytes = std::filesystem::file_size(path_, error);
    return error ? -1 : static_cast<int64_t>(bytes);
  }
  bool read(uint8_t* to, size_t bytes, size_t at) {
    stream_.seekg(static_cast<std::streamoff>(at));
    return static_cast<bool>(stream_.read(reinterpret_cast<char*>(to), static_cast<std::streamsize>(bytes)));
  }
  bool rewind() { return static_cast<bool>(stream_.seekp(0)); }
  bool write(const uint8_t* from, size_t bytes) {
    return static_cast<bool>(stream_.write(reinterpret_cast<const char*>(from), static_cast<std::streamsize>(bytes)));
  }

 private:
  std::filesystem::path path_;
  std::fstream stream_;
};

constexpr File::Mode kRead = File::read_mode;
constexpr File::Mode kCreate = File::create_mode;

void remove_file(const std::string& path) {
  std::error_code ignored;
  std::filesystem::remove(std::filesystem::u8path(path), ignored);
}

std::shared_ptr<const void> map_payload(const File&, size_t) { return nullptr; }

#endif

std::string reason_of(int error) { return error == 0 ? "it cannot be written" : std::strerror(error); }

/// Opens, checks and reads one file; `to` is where its payload goes, null to map it.
void read_one(PackedRead& want, uint8_t* to, const std::shared_ptr<const void>& arena) {
  errno = 0;
  File file(want.path, kRead);
  if (!file.is_open()) {
    want.verdict = errno == ENOENT || errno == ENOTDIR ? Verdict::missing : Verdict::unreadable;
    return;
  }
  // The length first: of a mapped file that is shorter than it says the end cannot be touched.
  if (file.size() != static_cast<int64_t>(kPackedHeader + want.bytes)) {
    want.verdict = Verdict::damaged;
    return;
  }
  std::array<uint8_t, kPackedHeader> header;
  if (!file.read(header.data(), header.size(), 0)) {
    want.verdict = Verdict::unreadable;
    return;
  }
  want.verdict = Verdict::foreign;
  if (std::memcmp(header.data(), kMagic, sizeof kMagic) != 0 || get<uint32_t>(header.data(), 8) != kVersion) return;
  want.verdict = Verdict::damaged;
  if (get<uint32_t>(header.data(), 12) != kPackedHeader || get<uint64_t>(header.data(), 4088) != checksum(header.data(), 4088)) return;
  if (std::memcmp(header.data() + 16, want.key.data(), kPackedKey) != 0) {
    want.verdict = Verdict::foreign;
    return;
  }
  if (get<uint64_t>(header.data(), 48) != want.bytes) return;
  PayloadSum sum;
  if (to != nullptr) {
    for (size_t at = 0; at < want.bytes; at += kPiece) {
      const size_t count = std::min(kPiece, want.bytes - at);
      if (!file.read(to + at, count, kPackedHeader + at)) {
        want.verdict = Verdict::unreadable;
        return;
      }
      sum.add(to + at, count);
    }
  } else {
    const std::shared_ptr<const void> whole = map_payload(file, want.bytes);
    if (whole == nullptr) {
      want.verdict = Verdict::unreadable;
      return;
    }
    const uint8_t* data = static_cast<const uint8_t*>(whole.get()) + kPackedHeader;
    for (size_t at = 0; at < want.bytes; at += kPiece) sum.add(data + at, std::min(kPiece, want.bytes - at));
    want.data = data;
    want.home = whole;
  }
  if (sum.total() != get<uint64_t>(header.data(), 56)) {
    want.home = nullptr;
    return;
  }
  want.verdict = Verdict::ok;
  if (to == nullptr) return;
  want.data = to;
  const size_t bytes = want.bytes;
  // The last home of the arena's parts ends the arena; until then each gives back the pages that are its alone.
  want.home = std::shared_ptr<const void>(to, [arena, bytes](const void* at) {
    give_pages(static_cast<uint8_t*>(const_cast<void*>(at)), bytes);
  });
}

size_t rounded(size_t bytes) { return (bytes + 63) / 64 * 64; }

struct Reading {
  std::vector<PackedRead>& reads;
  std::vector<size_t> order;  // the longest first
  std::vector<uint8_t*> places;
  std::shared_ptr<const void> arena;
};

}  // namespace

void write_packed(const std::string& path, const PackedKey& key, const std::string& text,
                  const std::vector<std::pair<const uint8_t*, size_t>>& pieces) {
  std::array<uint8_t, kPackedHeader> header{};
  std::memcpy(header.data(), kMagic, sizeof kMagic);
  set<uint32_t>(header.data(), 8, kVersion);
  set<uint32_t>(header.data(), 12, kPackedHeader);
  std::memcpy(header.data() + 16, key.data(), kPackedKey);
  std::memcpy(header.data() + 64, text.data(), std::min(text.size(), kPackedText));
  errno = 0;
  File file(path, kCreate);
  if (!file.is_open()) throw FileError(reason_of(errno));
  try {
    // Through a buffer of whole pieces, so that the sum does not depend on where a weight's parts end.
    std::vector<uint8_t> buffer;
    buffer.reserve(kPiece);
    PayloadSum sum;
    uint64_t bytes = 0;
    bool written = file.write(header.data(), header.size());
    const auto flush = [&] {
      sum.add(buffer.data(), buffer.size());
      written = written && file.write(buffer.data(), buffer.size());
      bytes += buffer.size();
      buffer.clear();
    };
    const auto append = [&](const uint8_t* from, size_t count) {
      while (count > 0 && written) {
        const size_t part = std::min(count, kPiece - buffer.size());
        buffer.insert(buffer.end(), from, from + part);
        from += part;
        count -= part;
        if (buffer.size() == kPiece) flush();
      }
    };
    const uint8_t zeros[64] = {};
    for (const auto& [data, count] : pieces) {
      append(data, count);
      append(zeros, rounded(count) - count);
    }
    if (!buffer.empty()) flush();
    set<uint64_t>(header.data(), 48, bytes);
    set<uint64_t>(header.data(), 56, sum.total());
    set<uint64_t>(header.data(), 4088, checksum(header.data(), 4088));
    written = written && file.rewind() && file.write(header.data(), header.size());
    const int error = errno;
    if (!file.shut() || !written) throw FileError(reason_of(written ? errno : error));
  } catch (...) {
    file.shut();
    remove_file(path);
    throw;
  }
}

void read_packed(std::vector<PackedRead>& reads, bool mapped, Pool& pool) {
  Reading reading{reads, std::vector<size_t>(reads.size()), std::vector<uint8_t*>(reads.size(), nullptr), nullptr};
  std::iota(reading.order.begin(), reading.order.end(), size_t{0});
  std::stable_sort(reading.order.begin(), reading.order.end(), [&](size_t a, size_t b) { return reads[a].bytes > reads[b].bytes; });
#ifndef LOWBIT_POSIX
  mapped = false;
#endif
  if (!mapped) {
    size_t total = 0;
    for (const PackedRead& read : reads) total += rounded(read.bytes);
    uint8_t* memory = take_memory(total);
    if (memory == nullptr) throw std::bad_alloc();
    reading.arena = std::shared_ptr<const void>(
        memory, [total](const void* at) { give_memory(static_cast<uint8_t*>(const_cast<void*>(at)), total); });
    for (size_t i = 0, at = 0; i < reads.size(); at += rounded(reads[i].bytes), ++i) reading.places[i] = memory + at;
  }
  const auto work = [](const void* context, size_t chunk, int) {
    const Reading& self = *static_cast<const Reading*>(context);
    const size_t index = self.order[chunk];
    read_one(self.reads[index], self.places[index], self.arena);
  };
  const Stage stage{work, &reading, static_cast<uint32_t>(reads.size())};
  if (!reads.empty()) pool.run(&stage, 1);
}

}  // namespace lowbit
