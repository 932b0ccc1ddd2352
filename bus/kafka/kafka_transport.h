// Apache Kafka, by librdkafka: topics are Kafka's, offsets are Kafka's, events travel in the
// CloudEvents Kafka binding, in binary mode (headers ce_*, the payload is the bare data).
// Structured JSON is read, too.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "bus/bus.h"

namespace leat::bus {

struct KafkaOptions {
  // librdkafka's properties by name, every one of them: "bootstrap.servers", "sasl.password",
  // "compression.codec", ... They win over ours.
  std::map<std::string, std::string> properties;
  // Stands before the names of all topics on the cluster, so that several installations can share
  // it; nobody else sees it.
  std::string topic_prefix;
  // Of topics that are created, and checked of those that are there; -1: the broker's default.
  int replication = -1;
  // Of topics without a retention of their own (TopicOptions), created or there already. -1: for
  // ever, which is what topics of deciders need.
  int64_t retention_ms = -1;
  // How long the broker has to answer a request for metadata.
  std::chrono::milliseconds timeout{10'000};
};

// Thread-safe. Subscriptions and memberships must be gone before it is destroyed.
class KafkaTransport final : public Transport {
 public:
  // Errors: kInvalid (a property), kUnavailable (no broker answered, or it refused the
  // credentials).
  static Result<std::unique_ptr<KafkaTransport>> Open(const KafkaOptions& options);
  ~KafkaTransport() override;

  Features features() const override;
  Status CreateTopic(std::string_view topic, uint32_t partitions,
                     const TopicOptions& options = {}) override;
  Result<std::unique_ptr<Membership>> Join(std::string_view topic, std::string_view group,
                                           std::string_view instance) override;
  Result<std::vector<TopicInfo>> Topics() override;
  Result<std::unique_ptr<Subscription>> Subscribe(std::string_view topic, uint32_t partition,
                                                  uint64_t offset) override;
  Result<PartitionEnd> End(std::string_view topic, uint32_t partition) override;
  Result<uint64_t> OffsetAt(std::string_view topic, uint32_t partition, int64_t time_us) override;
  // At least once: after an error some of the events may be there.
  Result<std::vector<events::Position>> Publish(std::string_view topic,
                                                const std::vector<events::Event>& events) override;
  Status PublishTo(std::string_view topic, uint32_t partition,
                   const std::vector<events::Event>& events) override;

  // For tests alone: the producer fails for good, as when the cluster has lost what it wrote. The
  // next publish makes a new one.
  void FailProducerForTest();

 private:
  class Impl;
  explicit KafkaTransport(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace leat::bus
