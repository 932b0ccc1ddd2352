// The bytes of a file, unpacked when it is gzip.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "core/result.h"

namespace leat::ingest {

// Reads one file from front to back. Gzip is told by its first two bytes, not by the name; several
// gzip members behind each other are one stream. Not thread-safe. Owns its file descriptor.
class ByteSource {
 public:
  // Errors: kNotFound, kInvalid (a folder, no permission).
  static Result<std::unique_ptr<ByteSource>> Open(const std::string& path);
  ~ByteSource();
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

  // Fills `to` up to `size` bytes; less only at the end of the data, 0 behind it.
  // Errors: kInvalid for gzip that is cut off or damaged, kUnavailable when the disk does not read.
  Result<size_t> Read(char* to, size_t size);
  // Of the file as it is on disk.
  uint64_t bytes_read() const { return bytes_read_; }
  uint64_t file_bytes() const { return file_bytes_; }

 private:
  struct Inflater;
  ByteSource(std::string path, int fd, uint64_t file_bytes);

  Status Refill();  // raw bytes from the file, once `raw_` is used up
  Result<size_t> ReadPlain(char* to, size_t size);
  Result<size_t> ReadGzip(char* to, size_t size);
  Error GzipError(const std::string& what) const;

  std::string path_;
  int fd_;
  uint64_t file_bytes_;
  uint64_t bytes_read_ = 0;
  std::unique_ptr<char[]> raw_;
  size_t raw_begin_ = 0;
  size_t raw_end_ = 0;
  bool file_ended_ = false;
  std::unique_ptr<Inflater> inflater_;  // only for gzip
};

}  // namespace leat::ingest
