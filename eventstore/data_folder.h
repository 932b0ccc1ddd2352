// A data folder: the lock that keeps it to one process, its format, and the address of the server that runs on it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "core/result.h"

namespace leat::eventstore {

inline constexpr int kDataFormat = 1;

// What a server leaves in its folder, so that commands find it.
struct ServerAddress {
  std::string host;
  uint16_t port = 0;
  int64_t process_id = 0;
  std::string token;  // for the routes that change things; the file is readable by its owner alone
};

// Holds the lock until destroyed.
class DataFolder {
 public:
  // Creates the folder if need be. Errors: kConflict (another process has it), kUnsupported (newer format),
  // kInvalid, kExhausted.
  static Result<std::unique_ptr<DataFolder>> Lock(const std::string& path);
  ~DataFolder();
  DataFolder(const DataFolder&) = delete;
  DataFolder& operator=(const DataFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string Sub(std::string_view name) const;
  Status WriteServerAddress(const ServerAddress& address);
  // The name of whoever works on this folder: random, made once, and kept in the file `instance`. Errors: kInvalid (the
  // file cannot be written), kCorrupt, kExhausted.
  Result<std::string> Instance();

 private:
  explicit DataFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
  int lock_ = -1;
  bool wrote_address_ = false;
};

// The server that holds the folder now; nothing when the folder is free.
Result<std::optional<ServerAddress>> FindServer(const std::string& path);

}  // namespace leat::eventstore
