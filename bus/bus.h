// How events travel: the ports that every transport implements. A topic is an ordered list of partitions; a partition
// is a gapless sequence of events, numbered from 0.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"
#include "events/event.h"
#include "events/position.h"

namespace leat::bus {

// What a transport can do; the conformance suite checks that the rest is refused with kUnsupported.
struct Features {
  std::string_view name;
  bool durable = true;           // acknowledged means on the disk
  bool seek = true;              // a subscription may start at any offset
  bool publish_from_many = true; // several processes at once
  bool end_at_once = true;       // what End tells can be polled without waiting
  size_t message_bytes_max = events::kDataBytesMax;
  uint32_t topics_max = 0;       // 0: no limit but memory and disk
};

struct TopicInfo {
  std::string name;
  uint32_t partitions = 0;
  std::string owner;  // the one service that writes it; empty: anybody may
};

struct Message {
  uint64_t offset = 0;
  events::EventView event;
  // Not empty: this is no event, and why; `event` has nothing but the original bytes, as its data.
  std::string_view problem;
};

// Messages of one partition, in order, with what keeps their views alive.
struct MessageBatch {
  std::vector<Message> messages;
  std::vector<std::shared_ptr<const void>> pins;

  void Clear() {
    messages.clear();
    pins.clear();
  }
};

struct PollLimits {
  size_t messages_max = 1024;   // at least 1
  size_t bytes_max = 8u << 20;  // of memory that the batch holds; at least one message is given whatever its size
  std::chrono::milliseconds timeout{100};
};

// A reader of one partition. Not thread-safe.
class Subscription {
 public:
  virtual ~Subscription() = default;
  // Replaces the batch by the next messages; none when the timeout passes first. Errors: kUnavailable, kCorrupt.
  virtual Status Poll(const PollLimits& limits, MessageBatch* batch) = 0;
  // The next Poll begins at this offset.
  virtual void Seek(uint64_t offset) = 0;
  // From any thread: a Poll that waits returns at once. Others of the same transport may return, too.
  virtual void Wake() = 0;
};

struct PartitionEnd {
  uint64_t offset = 0;       // of the next event
  uint32_t incarnation = 0;  // 0: the transport does not tell
};

// Thread-safe.
class Subscriber {
 public:
  virtual ~Subscriber() = default;
  // Errors: kNotFound (no such topic or partition).
  virtual Result<std::unique_ptr<Subscription>> Subscribe(std::string_view topic,
                                                          uint32_t partition, uint64_t offset) = 0;
  virtual Result<PartitionEnd> End(std::string_view topic, uint32_t partition) = 0;
};

// Thread-safe.
class Publisher {
 public:
  virtual ~Publisher() = default;
  // Publishes in order; returns once all are durable. The partition is that of the event's partitionkey, else subject,
  // else id. Errors: kNotFound (no such topic), kConflict (the topic has an owner), kInvalid (too large), kUnavailable,
  // kExhausted.
  virtual Result<std::vector<events::Position>> Publish(std::string_view topic,
                                                        const std::vector<events::Event>& events) = 0;
  // The same to one partition, whatever the keys are; a topic with an owner takes it. For a relay, which reads the topic to
  // know what came of it: after an error some of the events may be there.
  virtual Status PublishTo(std::string_view topic, uint32_t partition,
                           const std::vector<events::Event>& events) = 0;
};

// Thread-safe.
class Transport : public Publisher, public Subscriber {
 public:
  virtual Features features() const = 0;
  // Fine when the topic exists with as many partitions. With an owner, which is a service's name, only PublishTo writes it
  // from this process on. Errors: kConflict (other partitions, another owner), kInvalid (name), kExhausted.
  virtual Status CreateTopic(std::string_view topic, uint32_t partitions, std::string_view owner = {}) = 0;
  virtual Result<std::vector<TopicInfo>> Topics() = 0;
  // What stopped it for good.
  virtual Status error() const { return {}; }
};

}  // namespace leat::bus
