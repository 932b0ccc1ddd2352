// RabbitMQ, by rabbitmq-c over AMQP 0.9.1. A partition is a stream queue
// "<exchange>.<topic>.<partition>", bound to the durable topic exchange by "<topic>.<partition>.#";
// an event is published with the routing key "<topic>.<partition>.<type>", so that others can bind
// by pattern. Attributes are headers "cloudEvents_<name>", the body is the bare data
// (docs/transports.md).
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "bus/bus.h"

namespace leat::bus {

struct RabbitMqOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 5672;
  std::string vhost = "/";
  std::string username = "guest";
  std::string password = "guest";
  // Of all topics, and the beginning of the names of all queues: several installations can share a
  // broker.
  std::string exchange = "leat";
  // The peer is given up after two of them without a sign of life.
  int heartbeat_s = 10;
  // The same for the connections of memberships in groups: a member that is frozen or cut off is
  // replaced after two to three of them.
  int lease_heartbeat_s = 2;
  // A lease's token is put back and taken again so often: well before the broker's consumer_timeout
  // (half an hour), after which it would close the channel.
  std::chrono::milliseconds lease_renewal{300'000};
  bool tls = false;
  std::string tls_ca_file;  // PEM; these three are used with tls only
  std::string tls_certificate_file;
  std::string tls_key_file;
  // How long the broker has to answer.
  std::chrono::milliseconds timeout{10'000};
  // How long a publish waits for its confirms, also while the broker is away or has an alarm.
  std::chrono::milliseconds confirm_timeout{60'000};
};

// Thread-safe. Subscriptions must be gone before it is destroyed.
//
// Offsets are those of the stream behind its first message, which is a mark that makes the end of
// an empty stream known. End() is what this process has seen: what another one published a moment
// ago may be missing.
class RabbitMqTransport final : public Transport {
 public:
  // Errors: kInvalid (credentials, TLS files), kUnavailable (no broker answers).
  static Result<std::unique_ptr<RabbitMqTransport>> Open(const RabbitMqOptions& options);
  ~RabbitMqTransport() override;

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
  // At least once: after an error some of the events may be there. The broker's confirms do not
  // tell offsets: they are read back from the streams.
  Result<std::vector<events::Position>> Publish(std::string_view topic,
                                                const std::vector<events::Event>& events) override;
  // Confirmed, and not read back.
  Status PublishTo(std::string_view topic, uint32_t partition,
                   const std::vector<events::Event>& events) override;

 private:
  class Impl;
  explicit RabbitMqTransport(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace leat::bus
