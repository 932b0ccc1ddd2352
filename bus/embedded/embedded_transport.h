// The embedded transport: topics on the log engine, in this process. Topics of many writers share one event store, a
// stream for each partition; a topic that only a shard writes is that shard's log, mounted and not copied.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bus/bus.h"
#include "eventstore/event_store.h"

namespace leat::bus {

// Of one transport, mounted ones among them.
inline constexpr uint32_t kTopicsMax = 10'000;
inline constexpr uint32_t kPartitionsTotalMax = 100'000;

// Thread-safe.
class EmbeddedTransport final : public Transport {
 public:
  // The folder is created if need be.
  static Result<std::unique_ptr<EmbeddedTransport>> Open(const std::string& path);
  ~EmbeddedTransport() override;

  // The log is partition `partition` of `topic`, which `owner` alone writes. The log must live until Unmount, and its
  // subscriptions must be gone by then. Errors: kConflict (the topic exists otherwise), kExhausted (kTopicsMax,
  // kPartitionsTotalMax).
  Status Mount(std::string_view topic, uint32_t partition, std::string_view owner,
               const eventstore::Log* log);
  void Unmount(std::string_view topic, uint32_t partition);

  // What stopped the topics that are not mounted: after a failed write nothing is published until it is opened anew.
  Status error() const override { return store_->error(); }

  Features features() const override;
  Status CreateTopic(std::string_view topic, uint32_t partitions, const TopicOptions& options = {}) override;
  Result<std::unique_ptr<Membership>> Join(std::string_view topic, std::string_view group,
                                           std::string_view instance) override;
  Result<std::vector<TopicInfo>> Topics() override;
  Result<std::unique_ptr<Subscription>> Subscribe(std::string_view topic, uint32_t partition,
                                                  uint64_t offset) override;
  Result<PartitionEnd> End(std::string_view topic, uint32_t partition) override;
  Result<uint64_t> OffsetAt(std::string_view topic, uint32_t partition, int64_t time_us) override;
  Result<std::vector<events::Position>> Publish(std::string_view topic,
                                                const std::vector<events::Event>& events) override;
  Status PublishTo(std::string_view topic, uint32_t partition,
                   const std::vector<events::Event>& events) override;

  // For verification: the files below, and the log of all topics that are not mounted.
  Status VerifyFiles() const;
  const eventstore::Log& shared_log() const { return store_->log(); }

 private:
  struct Topic {
    uint32_t partitions = 0;
    std::string owner;
    std::map<uint32_t, const eventstore::Log*> mounted;
  };
  EmbeddedTransport() = default;
  Result<Topic> Find(std::string_view topic, uint32_t partition) const;
  // The members of a group on a topic, in the order in which they came: the first holds all partitions.
  struct Group;
  class GroupMembership;
  // With mutex_ held. Errors: kExhausted when so many more are too many.
  Status CheckCount(uint32_t topics, uint32_t partitions) const;

  std::unique_ptr<eventstore::EventStore> store_;
  mutable std::mutex mutex_;
  std::map<std::string, Topic, std::less<>> topics_;  // guarded by mutex_
  std::map<std::string, std::shared_ptr<Group>> groups_;  // guarded by mutex_; by topic/group
  uint32_t partitions_ = 0;                           // guarded by mutex_; of all topics
};

}  // namespace leat::bus
