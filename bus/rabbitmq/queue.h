// Plain queues of RabbitMQ, for work that is shared with services that are not ours: what has one
// consumer at a time, is acknowledged, and is gone then. Topics (bus/bus.h) are for everything that
// is to be read again. Events are mapped as on topics (docs/transports.md), and beside that
// correlationid and the extension replyto are AMQP's own correlation-id and reply-to.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bus/rabbitmq/rabbitmq_transport.h"
#include "core/result.h"
#include "events/event.h"

namespace leat::bus {

// How a durable queue is declared. One that is there must be the same.
struct QueueOptions {
  std::string name;                   // 1 to 255 bytes
  std::vector<std::string> bindings;  // patterns on the transport's exchange: "chain.blocks.*.#"
  uint8_t priority_max = 0;           // x-max-priority; 0: no priorities
  std::chrono::milliseconds message_ttl{0};  // of every message; 0: none
  // Where to what was refused without requeue or has outlived its time goes: an exchange ("" is
  // the default one, whose keys are names of queues) and a routing key (absent: the message's own).
  std::optional<std::string> dead_letter_exchange;
  std::optional<std::string> dead_letter_key;
  uint16_t prefetch = 100;  // so many are delivered and not acknowledged, at most
};

// A message that was taken from a queue. Views live as long as it does.
struct Delivery {
  events::EventView event;
  // Not empty: this is no event, and why; `event` has nothing but the bytes, as its data.
  std::string problem;
  std::string_view routing_key;
  std::string_view queue_died_in;  // of a dead letter: the queue that it was in first
  uint8_t priority = 0;
  bool redelivered = false;
  uint64_t connection = 0;  // which of the consumer's, in time
  uint64_t tag = 0;
  std::shared_ptr<const void> pin;
};

// Declares a queue, and takes its messages. Its connection has a thread of its own, which answers
// heartbeats however long a message is worked on. When the connection was lost, queue, bindings and
// consumption are there again as soon as the broker is, and what was not acknowledged comes again.
// Thread-safe.
class QueueConsumer {
 public:
  // Errors: kConflict (the queue is there, and is another one), kInvalid (credentials, a name),
  // kUnavailable (no broker answers).
  static Result<std::unique_ptr<QueueConsumer>> Open(const RabbitMqOptions& options,
                                                     const QueueOptions& queue);
  ~QueueConsumer();

  // The next message; nothing when the timeout passes first. Errors: kUnavailable (the connection
  // is lost; it comes back by itself).
  Result<std::optional<Delivery>> Take(std::chrono::milliseconds timeout);
  // The message is done with. AMQP does not confirm it: when the connection is lost on the way, the
  // message comes again. Errors: kUnavailable (it was lost before: it comes again).
  Status Ack(const Delivery& delivery);
  // It is not: back into the queue, or to the dead letters (gone, where there are none).
  Status Nack(const Delivery& delivery, bool requeue);

 private:
  class Impl;
  explicit QueueConsumer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

struct SendOptions {
  std::chrono::milliseconds ttl{0};  // of this message in a queue; 0: that of the queue
  uint8_t priority = 0;
};

inline constexpr size_t kQueuePublishesMax = 4096;  // unconfirmed; then publishers wait

// Publishes to queues, with confirms. Thread-safe; to be shared, since each call waits for its
// confirm.
class QueueProducer {
 public:
  // Errors: kInvalid (credentials), kUnavailable (no broker answers).
  static Result<std::unique_ptr<QueueProducer>> Open(const RabbitMqOptions& options);
  ~QueueProducer();

  // To the queue of this name. Returns when the broker has it, in a durable queue on its disk.
  // While there is no broker, or it has an alarm, waits for options.confirm_timeout. Errors:
  // kNotFound (no such queue), kInvalid (too large), kUnavailable: it may be there all the same.
  Status SendTo(std::string_view queue, const events::Event& event, const SendOptions& how = {});
  // To every queue that is bound by a pattern of this key on the transport's exchange. Errors:
  // kNotFound (none is).
  Status Publish(std::string_view routing_key, const events::Event& event,
                 const SendOptions& how = {});

 private:
  class Impl;
  explicit QueueProducer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace leat::bus
