#include "producers/ingest/service.h"

#include <thread>

#include "chain/v1/chain.pb.h"

namespace leat::ingest {

Result<std::unique_ptr<Service>> Service::Open(const ServiceOptions& options,
                                               bus::Transport* transport) {
  std::unique_ptr<Service> service(new Service(options));
  runtime::OwnedShardOptions owned;
  owned.shard.path = options.path;
  owned.shard.name = "ingest-" + std::to_string(options.partition);
  owned.shard.has_log = true;
  owned.topic = kChainBlocksTopic;
  owned.partition = options.partition;
  owned.mounted = !options.relayed;
  LEAT_ASSIGN(service->owned_,
              runtime::OwnedShard::Open(owned, &service->evolver_, transport));
  return service;
}

Service::~Service() { Rest(); }

Result<std::shared_ptr<ChainFeed>> Service::Feed() const {
  std::lock_guard lock(mutex_);
  if (feed_ != nullptr) return feed_;
  return Fail(ErrorClass::kUnavailable,
              "this process does not own partition " + std::to_string(options_.partition) +
                  " of " + std::string(kChainBlocksTopic),
              "try again: see `leat cluster` for who does");
}

Result<FeedReport> Service::Submit(const std::vector<chain::v1::BlockObserved>& blocks) {
  LEAT_ASSIGN(const auto feed, Feed());
  return feed->Submit(blocks);
}

Status Service::Published(uint64_t epoch, std::chrono::milliseconds timeout) const {
  uint64_t size = 0;
  {
    const auto now = owned_->shard();
    if (now != nullptr) size = now->log()->size();
  }
  if (owned_->WaitPublishedIn(epoch, size, timeout)) return {};
  return Fail(ErrorClass::kUnavailable, "what was submitted is not published",
              "submit it again: what is known is passed over");
}

Result<FeedReport> Service::SubmitAndPublish(
    const std::vector<chain::v1::BlockObserved>& blocks, std::chrono::milliseconds timeout) {
  const uint64_t epoch = owned_->epoch();  // before: a later one has not seen it
  LEAT_ASSIGN(const auto report, Submit(blocks));
  LEAT_TRY(Published(epoch, timeout));
  return report;
}

Status Service::SubmitOpening(std::string_view chain,
                              const std::vector<std::pair<Address, Amount>>& balances,
                              std::chrono::milliseconds timeout) {
  const uint64_t epoch = owned_->epoch();
  {
    LEAT_ASSIGN(const auto feed, Feed());
    LEAT_TRY(feed->SubmitOpening(chain, balances));
  }
  return Published(epoch, timeout);
}

Result<bool> Service::Knows(std::string_view chain, const Hash& hash) const {
  LEAT_ASSIGN(const auto feed, Feed());
  return feed->Knows(chain, hash);
}

bool Service::WaitPublished(std::chrono::milliseconds timeout) const {
  uint64_t size = 0;
  {
    // Not held while it waits: whoever puts it aside waits for that.
    const auto now = owned_->shard();
    if (now == nullptr) return false;
    size = now->log()->size();
  }
  return owned_->WaitPublished(size, timeout);
}

Status Service::Own(const std::stop_token& stop) {
  LEAT_TRY(owned_->Own(stop));
  auto feed = std::make_shared<ChainFeed>(owned_->shard());
  std::lock_guard lock(mutex_);
  feed_ = std::move(feed);
  return {};
}

Status Service::Follow() { return owned_->Follow(); }

void Service::Rest() {
  std::shared_ptr<ChainFeed> feed;
  {
    std::lock_guard lock(mutex_);
    feed = std::move(feed_);
  }
  // Whoever submits holds it for a moment.
  while (feed != nullptr && feed.use_count() > 1) std::this_thread::yield();
  feed.reset();
  owned_->Rest();
}

runtime::Standing Service::standing() const {
  runtime::Standing standing;
  standing.epoch = owned_->epoch();
  standing.published_end = owned_->published_end();
  standing.done = standing.published_end;  // its topic is all the input there is to see
  if (!options_.relayed) {
    standing.done = standing.published_end = owned_->shard()->log()->size();
  }
  return standing;
}

}  // namespace leat::ingest
