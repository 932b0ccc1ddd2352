// The ledger as a part of a process: its shard, its runner, and where its log stands on the bus.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "bus/bus.h"
#include "producers/ledger/ledger.h"
#include "runtime/decider_runner.h"
#include "runtime/relay.h"
#include "runtime/shard.h"

namespace leat::ledger {

struct ServiceOptions {
  std::string path;         // of the shard
  std::string input_topic;  // where the facts come from
  // The log is relayed to the topic kLedgerEntriesTopic, and is rebuilt from there; false: it is that topic, mounted by whoever
  // opens the service.
  bool relayed = false;
  // Relayed, it neither claims the partition nor decides: what others decide is there to be read.
  bool observes = false;
};

// Thread-safe once opened. The transport must outlive it.
class Service {
 public:
  // Relayed, the partition is claimed, and what the shard lacks is rebuilt from there.
  static Result<std::unique_ptr<Service>> Open(const ServiceOptions& options,
                                               bus::Transport* transport);
  ~Service();

  Status Start();
  // Offset of the first input not applied.
  uint64_t applied() const;
  bool WaitApplied(uint64_t next, std::chrono::milliseconds timeout) const;
  // What stopped it, a rebuild that failed included.
  Status error() const;
  // Events decided.
  uint64_t decided() const { return shard_->log()->size(); }
  // Whether others can read all of them, which they can at once when the log is mounted; waits for it.
  bool WaitPublished(std::chrono::milliseconds timeout) const;
  // Offset behind the events that others can read.
  Result<uint64_t> PublishedEnd() const;
  Status VerifyFiles() const { return shard_->database().VerifyChecksums(); }
  const eventstore::Log& log() const { return *shard_->log(); }

  // Builds all rows anew from the shard's own log, with the runner stopped, and goes on. After an error it does not, until
  // it is opened anew, which builds them again.
  Status Rebuild(const std::function<void(uint64_t, uint64_t)>& progress);

 private:
  Service(ServiceOptions options, bus::Transport* transport)
      : options_(std::move(options)), transport_(transport) {}
  runtime::RunnerOptions Input() const;
  Status RebuildRows(const std::function<void(uint64_t, uint64_t)>& progress);
  Status StartRunner();

  const ServiceOptions options_;
  bus::Transport* const transport_;
  Ledger decider_;
  std::unique_ptr<runtime::Shard> shard_;
  mutable std::mutex mutex_;
  std::shared_ptr<runtime::DeciderRunner> runner_;  // guarded by mutex_
  Status rebuild_error_;                            // guarded by mutex_
  std::unique_ptr<runtime::Relay> relay_;
};

}  // namespace leat::ledger
