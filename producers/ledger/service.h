// The ledger of one partition as a part of a process: its shard, its runner, and where its log
// stands on the bus.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "bus/bus.h"
#include "producers/ledger/ledger.h"
#include "runtime/decider_runner.h"
#include "runtime/owned_shard.h"
#include "runtime/role.h"

namespace leat::ledger {

struct ServiceOptions {
  std::string path;         // of the shard
  std::string input_topic;  // where the facts come from
  uint32_t partition = 0;   // of both topics
  // The log is relayed to the topic kLedgerEntriesTopic, and is rebuilt from there; false: it is
  // that topic, mounted by whoever opens the service.
  bool relayed = false;
};

// Thread-safe once opened. The transport must outlive it.
class Service final : public runtime::Part {
 public:
  static Result<std::unique_ptr<Service>> Open(const ServiceOptions& options,
                                               bus::Transport* transport);
  ~Service() override;

  // Offset of the first input not applied; 0 while it is not owned.
  uint64_t applied() const;
  // False at the deadline, or while it is not owned.
  bool WaitApplied(uint64_t next, std::chrono::milliseconds timeout) const;
  // Events decided.
  uint64_t decided() const;
  // Waits until others can read all of them, which they can at once when the log is mounted.
  bool WaitPublished(std::chrono::milliseconds timeout) const;
  // Offset behind the events that others can read.
  Result<uint64_t> PublishedEnd() const;
  Status VerifyFiles() const;
  // The shard, for its log; another one when it was built anew.
  std::shared_ptr<runtime::Shard> shard() const { return owned_->shard(); }

  // Builds all rows anew from the shard's own log, with the runner stopped, and goes on. After an
  // error it does not, until it is opened anew, which builds them again. Errors: kConflict while it
  // is not owned.
  Status Rebuild(const std::function<void(uint64_t, uint64_t)>& progress);

  Status Own(const std::stop_token& stop) override;
  Status Follow() override;
  void Rest() override;
  runtime::Standing standing() const override;
  // What stopped it, a rebuild that failed included.
  Status error() const override;

 private:
  Service(ServiceOptions options, bus::Transport* transport)
      : options_(std::move(options)), transport_(transport) {}
  runtime::RunnerOptions Input() const;
  Status RebuildRows(const std::function<void(uint64_t, uint64_t)>& progress);
  Status StartRunner();
  // Takes the runner away, and waits until nobody uses it. Null when there was none.
  bool StopRunner();

  const ServiceOptions options_;
  bus::Transport* const transport_;
  Ledger decider_;
  std::unique_ptr<runtime::OwnedShard> owned_;
  std::mutex moving_;  // held by Own, Follow, Rest and Rebuild
  mutable std::mutex mutex_;
  std::shared_ptr<runtime::DeciderRunner> runner_;  // guarded by mutex_
  Status rebuild_error_;                            // guarded by mutex_
  // What had been applied when the log had this size: done with when that much of it is published.
  mutable uint64_t sampled_applied_ = 0;  // guarded by mutex_
  mutable uint64_t sampled_size_ = 0;     // guarded by mutex_
  mutable runtime::Standing standing_;    // guarded by mutex_
};

}  // namespace leat::ledger
