// A temporary file that is written once, read at any offset, and gone with its object.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "core/result.h"

namespace leat::ingest {

// Makes `folder` when it is not there and removes the scratch files a killed run left in it; other
// files stay. Errors: kInvalid, kExhausted.
Status PrepareScratchFolder(const std::string& folder);

// Not thread-safe. Up to `memory_bytes` stay in memory and reach the disk only when there is more.
class ScratchFile {
 public:
  // The file is made at the first write to disk, as `folder`/leat-ingest-`name`.tmp.
  ScratchFile(const std::string& folder, const std::string& name, size_t memory_bytes);
  ~ScratchFile();  // removes the file
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  // Errors: kExhausted when the disk is full, kInvalid when the file cannot be made.
  Status Append(std::string_view bytes);
  // Writes what is still in memory to disk and gives the memory back. Errors: as Append.
  Status Flush();
  // Reads `size` bytes at `offset`, all of which must have been appended. Errors: kCorrupt,
  // kUnavailable.
  Status ReadAt(uint64_t offset, char* to, size_t size) const;
  uint64_t size() const { return written_ + buffer_.size(); }
  // How much of it is on disk.
  uint64_t written() const { return written_; }

 private:
  Status Write();  // the buffer

  std::string path_;
  size_t memory_bytes_;
  int fd_ = -1;
  uint64_t written_ = 0;
  std::string buffer_;
};

}  // namespace leat::ingest
