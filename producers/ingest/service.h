// The feed of one partition as a part of a process: its shard, and where its log stands on the bus.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "bus/bus.h"
#include "producers/ingest/chain_feed.h"
#include "runtime/owned_shard.h"
#include "runtime/role.h"

namespace leat::ingest {

struct ServiceOptions {
  std::string path;  // of the shard
  uint32_t partition = 0;
  // The log is relayed to the topic kChainBlocksTopic, and is rebuilt from there; false: it is that
  // topic, mounted by whoever opens the service.
  bool relayed = false;
};

// Thread-safe once opened. The transport must outlive it.
class Service final : public runtime::Part {
 public:
  static Result<std::unique_ptr<Service>> Open(const ServiceOptions& options,
                                               bus::Transport* transport);
  ~Service() override;

  // As of ChainFeed, whose errors these have, too; kUnavailable while the partition is not owned.
  // What was submitted is there to stay when WaitPublished says so, and the partition is still owned.
  Result<FeedReport> Submit(const std::vector<chain::v1::BlockObserved>& blocks);
  // Return once what was submitted can be read from the topic and is there to stay. Errors:
  // kUnavailable when that takes longer, or another process took the partition over: then some of it
  // may be there, and it is to be submitted again.
  Result<FeedReport> SubmitAndPublish(const std::vector<chain::v1::BlockObserved>& blocks,
                                      std::chrono::milliseconds timeout);
  Status SubmitOpening(std::string_view chain,
                       const std::vector<std::pair<Address, Amount>>& balances,
                       std::chrono::milliseconds timeout);
  Result<bool> Knows(std::string_view chain, const Hash& hash) const;
  // The shard, for its log; another one when it was built anew.
  std::shared_ptr<runtime::Shard> shard() const { return owned_->shard(); }
  // Waits until everything that was submitted can be read from the topic and is there to stay.
  bool WaitPublished(std::chrono::milliseconds timeout) const;

  Status Own(const std::stop_token& stop) override;
  Status Follow() override;
  void Rest() override;
  runtime::Standing standing() const override;
  Status error() const override { return owned_->error(); }

 private:
  explicit Service(ServiceOptions options) : options_(std::move(options)) {}
  // Not to be kept: the partition is given up only when nobody has it.
  Result<std::shared_ptr<ChainFeed>> Feed() const;
  // Of all that is in the log now, if it was submitted in that epoch.
  Status Published(uint64_t epoch, std::chrono::milliseconds timeout) const;

  const ServiceOptions options_;
  ChainDecider evolver_;
  std::unique_ptr<runtime::OwnedShard> owned_;
  mutable std::mutex mutex_;
  std::shared_ptr<ChainFeed> feed_;  // guarded by mutex_
};

}  // namespace leat::ingest
