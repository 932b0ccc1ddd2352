#include "eventstore/data_folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/bytes.h"
#include "core/clock.h"

namespace leat::eventstore {
namespace {

// Both small files are lines of "name value".
std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

Status WriteAll(const std::string& path, const std::string& text, mode_t mode) {
  const std::string temporary = path + ".tmp";
  errno = 0;
  const int file = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
  bool good = file >= 0;
  if (good) {
    const ssize_t written = write(file, text.data(), text.size());
    if (written >= 0 && written < static_cast<ssize_t>(text.size())) errno = ENOSPC;
    good = written == static_cast<ssize_t>(text.size()) && fsync(file) == 0;
    good = close(file) == 0 && good;
  }
  good = good && rename(temporary.c_str(), path.c_str()) == 0;
  if (!good) {
    return Fail(errno == ENOSPC ? ErrorClass::kExhausted : ErrorClass::kInvalid,
                "writing " + path + ": " + std::strerror(errno),
                "name a folder that can be written and has room");
  }
  return {};
}

// A lock of the open file, not of the process: released when the file is closed, also by a crash.
struct flock WholeFile() {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return lock;
}

// The text of a field in the flat JSON that WriteServerAddress writes; empty when it is not there.
std::string FieldOf(const std::string& json, const std::string& name) {
  const std::string mark = "\"" + name + "\":";
  size_t at = json.find(mark);
  if (at == std::string::npos) return {};
  at += mark.size();
  if (at < json.size() && json[at] == '"') {
    ++at;
    return json.substr(at, json.find('"', at) - at);
  }
  return json.substr(at, json.find_first_of(",}", at) - at);
}

}  // namespace

Result<std::unique_ptr<DataFolder>> DataFolder::Lock(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) {
    return Fail(error == std::errc::no_space_on_device ? ErrorClass::kExhausted
                                                       : ErrorClass::kInvalid,
                "data folder " + path + ": " + error.message(),
                "name a folder that can be written with --data");
  }
  std::unique_ptr<DataFolder> folder(new DataFolder(path));
  const std::string lock_path = folder->Sub("lock");
  folder->lock_ = open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (folder->lock_ < 0) {
    return Fail(errno == ENOSPC ? ErrorClass::kExhausted : ErrorClass::kInvalid,
                lock_path + ": " + std::strerror(errno),
                "name a folder that can be written with --data");
  }
  struct flock whole = WholeFile();
  if (fcntl(folder->lock_, F_OFD_SETLK, &whole) != 0) {
    return Fail(ErrorClass::kConflict, "data folder " + path + " is in use by another process",
                "stop that process, or name another folder with --data");
  }
  // A server that was killed left its address; whoever holds the folder now is not that server.
  unlink(folder->Sub("server.json").c_str());
  const std::string format_path = folder->Sub("format");
  if (std::filesystem::exists(format_path)) {
    const std::string text = FieldOf(ReadAll(format_path), "format");
    const auto format = core::ParseUint64(text);
    if (!format) {
      return Fail(ErrorClass::kCorrupt, format_path + " does not name a format",
                  "this is not a data folder of leat, or it is damaged");
    }
    if (*format != kDataFormat) {
      return Fail(ErrorClass::kUnsupported,
                  "data folder " + path + " has format " + text + ", this leat reads format " +
                      std::to_string(kDataFormat),
                  "use the leat that wrote it, or a newer one");
    }
  } else {
    LEAT_TRY(WriteAll(format_path, "{\"format\":" + std::to_string(kDataFormat) + "}\n", 0644));
  }
  return folder;
}

DataFolder::~DataFolder() {
  if (lock_ < 0) return;
  if (wrote_address_) unlink(Sub("server.json").c_str());
  close(lock_);
}

std::string DataFolder::Sub(std::string_view name) const { return path_ + "/" + std::string(name); }

Status DataFolder::WriteServerAddress(const ServerAddress& address) {
  LEAT_TRY(WriteAll(Sub("server.json"),
                    "{\"host\":\"" + address.host + "\",\"port\":" + std::to_string(address.port) +
                        ",\"pid\":" + std::to_string(address.process_id) + ",\"token\":\"" +
                        address.token + "\"}\n",
                    0600));
  wrote_address_ = true;
  return {};
}

Result<std::string> DataFolder::Instance() {
  const std::string path = Sub("instance");
  std::string name = ReadAll(path);
  while (!name.empty() && name.back() == '\n') name.pop_back();
  if (name.empty() && std::filesystem::exists(path)) {
    return Fail(ErrorClass::kCorrupt, path + " is empty", "write a name into it, or delete it");
  }
  if (!name.empty()) return name;
  // Of a UUIDv7 the last 62 bits are random; 48 of them are enough.
  const std::string uuid = core::NewUuid();
  name = "n" + uuid.substr(uuid.size() - 12);
  LEAT_TRY(WriteAll(path, name + "\n", 0644));
  return name;
}

Result<std::optional<ServerAddress>> FindServer(const std::string& path) {
  const std::string lock_path = path + "/lock";
  const int lock = open(lock_path.c_str(), O_RDWR | O_CLOEXEC);
  if (lock < 0) return std::nullopt;
  // Asks and does not take, so that two who look at once do not see each other.
  struct flock whole = WholeFile();
  const bool free = fcntl(lock, F_OFD_GETLK, &whole) == 0 && whole.l_type == F_UNLCK;
  close(lock);
  if (free) return std::nullopt;
  const std::string text = ReadAll(path + "/server.json");
  ServerAddress address;
  address.host = FieldOf(text, "host");
  address.token = FieldOf(text, "token");
  const auto port = core::ParseUint64(FieldOf(text, "port"));
  const auto process = core::ParseUint64(FieldOf(text, "pid"));
  if (address.host.empty() || !port || *port > UINT16_MAX || !process) {
    return Fail(ErrorClass::kConflict,
                "data folder " + path + " is in use by another process that is not a server",
                "wait until it has ended, or name another folder with --data");
  }
  address.port = static_cast<uint16_t>(*port);
  address.process_id = static_cast<int64_t>(*process);
  return address;
}

}  // namespace leat::eventstore
