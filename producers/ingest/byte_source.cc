#include "producers/ingest/byte_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace leat::ingest {
namespace {

constexpr size_t kRawBytes = 256 << 10;
constexpr int kGzipWindowBits = 15 + 16;  // the largest window, with a gzip header

}  // namespace

struct ByteSource::Inflater {
  z_stream stream{};
  bool in_member = true;  // false between two members

  ~Inflater() { inflateEnd(&stream); }
};

ByteSource::ByteSource(std::string path, int fd, uint64_t file_bytes)
    : path_(std::move(path)), fd_(fd), file_bytes_(file_bytes), raw_(new char[kRawBytes]) {}

ByteSource::~ByteSource() { close(fd_); }

Result<std::unique_ptr<ByteSource>> ByteSource::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return Fail(errno == ENOENT ? ErrorClass::kNotFound : ErrorClass::kInvalid,
                path + ": cannot be opened: " + std::strerror(errno),
                "check the path and its permissions");
  }
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return Invalid(path + ": is not a regular file", "give CSV or JSON lines files, plain or gzip");
  }
  std::unique_ptr<ByteSource> source(new ByteSource(path, fd, static_cast<uint64_t>(info.st_size)));
  LEAT_TRY(source->Refill());
  const bool gzip = source->raw_end_ >= 2 && source->raw_[0] == '\x1f' && source->raw_[1] == '\x8b';
  if (gzip) {
    source->inflater_ = std::make_unique<Inflater>();
    LEAT_ASSERT(inflateInit2(&source->inflater_->stream, kGzipWindowBits) == Z_OK);
  }
  return source;
}

Status ByteSource::Refill() {
  raw_begin_ = 0;
  raw_end_ = 0;
  while (raw_end_ < kRawBytes && !file_ended_) {
    const ssize_t got = read(fd_, raw_.get() + raw_end_, kRawBytes - raw_end_);
    if (got < 0) {
      if (errno == EINTR) continue;
      return Fail(ErrorClass::kUnavailable, path_ + ": reading failed: " + std::strerror(errno),
                  "check the disk, then retry");
    }
    if (got == 0) file_ended_ = true;
    raw_end_ += static_cast<size_t>(got);
  }
  bytes_read_ += raw_end_;
  return {};
}

Result<size_t> ByteSource::Read(char* to, size_t size) {
  return inflater_ == nullptr ? ReadPlain(to, size) : ReadGzip(to, size);
}

Result<size_t> ByteSource::ReadPlain(char* to, size_t size) {
  size_t done = 0;
  while (done < size) {
    if (raw_begin_ == raw_end_) LEAT_TRY(Refill());
    if (raw_begin_ == raw_end_) break;
    const size_t step = std::min(size - done, raw_end_ - raw_begin_);
    std::memcpy(to + done, raw_.get() + raw_begin_, step);
    raw_begin_ += step;
    done += step;
  }
  return done;
}

Error ByteSource::GzipError(const std::string& what) const {
  return Error{ErrorClass::kInvalid, path_ + ": " + what,
               "fetch or write the file again; `gzip -t` tells whether it is whole"};
}

Result<size_t> ByteSource::ReadGzip(char* to, size_t size) {
  z_stream& stream = inflater_->stream;
  size_t done = 0;
  while (done < size) {
    if (raw_begin_ == raw_end_) LEAT_TRY(Refill());
    const bool input_ended = raw_begin_ == raw_end_;  // zlib may still hold output
    if (!inflater_->in_member) {
      if (input_ended) break;
      if (raw_[raw_begin_] == '\0') {  // padding, as tar and tape drives add it
        ++raw_begin_;
        continue;
      }
      inflateReset(&stream);
      inflater_->in_member = true;
    }
    stream.next_in = reinterpret_cast<Bytef*>(raw_.get() + raw_begin_);
    stream.avail_in = static_cast<uInt>(raw_end_ - raw_begin_);
    const size_t step = std::min<size_t>(size - done, 1u << 30);
    stream.next_out = reinterpret_cast<Bytef*>(to + done);
    stream.avail_out = static_cast<uInt>(step);
    const int code = inflate(&stream, Z_NO_FLUSH);
    raw_begin_ = raw_end_ - stream.avail_in;
    const size_t made = step - stream.avail_out;
    done += made;
    if (code == Z_STREAM_END) {
      inflater_->in_member = false;
    } else if (code != Z_OK && code != Z_BUF_ERROR) {
      return std::unexpected(GzipError(std::string("the gzip data is damaged: ") +
                                       (stream.msg != nullptr ? stream.msg : zError(code))));
    } else if (input_ended && made == 0) {
      return std::unexpected(GzipError("the gzip data is truncated"));
    }
  }
  return done;
}

}  // namespace leat::ingest
