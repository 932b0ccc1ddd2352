// The event store: appends from any thread, checked against versions and idempotency keys, committed in groups.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "core/result.h"
#include "eventstore/database.h"
#include "eventstore/log.h"
#include "events/event.h"

namespace leat::eventstore {

inline constexpr uint64_t kAnyVersion = UINT64_MAX;
inline constexpr size_t kIdempotencyKeyBytesMax = 256;

// Events for one stream.
struct Append {
  std::string stream;
  uint64_t expected_version = kAnyVersion;  // how many events the stream has now: 0, it does not exist
  std::vector<events::Event> events;
  std::string idempotency_key;  // scoped by the stream; empty: none
};

struct Appended {
  uint64_t first_position = 0;
  uint64_t first_version = 0;  // 1 for the stream's first event
  uint64_t count = 0;
  bool repeated = false;  // the key was seen before: this is the first time's result
};

struct EventStoreOptions {
  DatabaseOptions database;
  LogOptions log;
};

// Thread-safe.
class EventStore {
 public:
  static Result<std::unique_ptr<EventStore>> Open(const EventStoreOptions& options);
  // Finishes what was asked for.
  ~EventStore();

  using Done = std::function<void(Result<std::vector<Appended>>)>;
  // One atomic commit over several streams: all or nothing. `done` is called from the writer thread once the commit is on
  // the disk and visible, or with the error; it must not block. When kQueueBytesMax are waiting, the caller waits.
  // Errors: kConflict (the message names the actual version; or the key came with other content), kInvalid, kExhausted
  // (no room now: may be tried again); and error().
  void AppendAsync(std::vector<Append> appends, Done done);
  Result<std::vector<Appended>> AppendAll(std::vector<Append> appends);
  Result<Appended> AppendOne(Append append);

  // What stopped the store: after a failed write nothing else is tried, until it is opened anew.
  Status error() const;

  const Log& log() const { return *log_; }
  Database& database() { return *database_; }

 private:
  struct Request {
    std::vector<Append> appends;
    Done done;
    size_t bytes = 0;
  };
  EventStore() = default;
  void WriteLoop();
  void Commit(std::vector<Request>* requests);
  Status CommitAll(const std::vector<Request>& requests,
                   std::vector<Result<std::vector<Appended>>>* results);
  Result<std::vector<Appended>> Stage(const Request& request, Batch* batch);

  std::unique_ptr<Database> database_;
  std::unique_ptr<Log> log_;
  std::unordered_map<std::string, std::string> staged_keys_;  // writer: of the commit being made

  mutable std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable room_;
  std::vector<Request> queue_;  // guarded by mutex_
  size_t queue_bytes_ = 0;      // guarded by mutex_
  bool stopping_ = false;       // guarded by mutex_
  Status failed_;               // guarded by mutex_; set by the writer
  std::thread writer_;
};

}  // namespace leat::eventstore
