#include "producers/ingest/scratch_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace leat::ingest {
namespace {

constexpr std::string_view kPrefix = "leat-ingest-";
constexpr std::string_view kSuffix = ".tmp";
constexpr const char* kDiskRemedy =
    "free space there, name another scratch folder, or give more memory";

Error WriteError(const std::string& path, uint64_t size, int error) {
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  if (full) {
    return Error{ErrorClass::kExhausted,
                 path + ": the disk is full after " + std::to_string(size) +
                     " bytes of this scratch file: " + std::strerror(error),
                 kDiskRemedy};
  }
  return Error{ErrorClass::kInvalid, path + ": cannot be written: " + std::strerror(error),
               "check the scratch folder and its permissions"};
}

}  // namespace

Status PrepareScratchFolder(const std::string& folder) {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    return Fail(
        error == std::errc::no_space_on_device ? ErrorClass::kExhausted : ErrorClass::kInvalid,
        folder + ": the scratch folder cannot be made: " + error.message(), kDiskRemedy);
  }
  fs::directory_iterator entry(folder, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.starts_with(kPrefix) && name.ends_with(kSuffix)) {
      std::error_code ignored;  // what stays is overwritten
      fs::remove(entry->path(), ignored);
    }
  }
  if (error) {
    return Invalid(folder + ": the scratch folder cannot be read: " + error.message(),
                   "check its permissions");
  }
  return {};
}

ScratchFile::ScratchFile(const std::string& folder, const std::string& name, size_t memory_bytes)
    : path_(folder + "/" + std::string(kPrefix) + name + std::string(kSuffix)),
      memory_bytes_(memory_bytes) {}

ScratchFile::~ScratchFile() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(path_.c_str());
}

Status ScratchFile::Append(std::string_view bytes) {
  buffer_.append(bytes);
  return buffer_.size() > memory_bytes_ ? Write() : Status();
}

Status ScratchFile::Flush() {
  LEAT_TRY(Write());
  std::string().swap(buffer_);
  return {};
}

Status ScratchFile::Write() {
  if (fd_ < 0) {
    fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd_ < 0) return std::unexpected(WriteError(path_, written_, errno));
  }
  std::string_view rest = buffer_;
  while (!rest.empty()) {
    const ssize_t done = write(fd_, rest.data(), rest.size());
    if (done < 0) {
      if (errno == EINTR) continue;
      return std::unexpected(WriteError(path_, written_, errno));
    }
    rest.remove_prefix(static_cast<size_t>(done));
    written_ += static_cast<uint64_t>(done);
  }
  buffer_.clear();
  return {};
}

Status ScratchFile::ReadAt(uint64_t offset, char* to, size_t size) const {
  LEAT_ASSERT(offset + size <= this->size());
  while (size > 0 && offset < written_) {
    const size_t step = static_cast<size_t>(std::min<uint64_t>(size, written_ - offset));
    const ssize_t got = pread(fd_, to, step, static_cast<off_t>(offset));
    if (got < 0) {
      if (errno == EINTR) continue;
      return Fail(ErrorClass::kUnavailable, path_ + ": reading failed: " + std::strerror(errno),
                  "check the disk, then start again");
    }
    if (got == 0) {
      return Fail(ErrorClass::kCorrupt, path_ + ": somebody has cut this scratch file",
                  "give each run its own scratch folder and start again");
    }
    to += got;
    offset += static_cast<uint64_t>(got);
    size -= static_cast<size_t>(got);
  }
  if (size > 0) std::memcpy(to, buffer_.data() + (offset - written_), size);
  return {};
}

}  // namespace leat::ingest
