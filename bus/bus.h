// How events travel: the ports that every transport implements. A topic is an ordered list of partitions; a partition
// is a sequence of events, numbered from 0. Brokers use some numbers for themselves.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"
#include "events/event.h"
#include "events/position.h"

namespace leat::bus {

// What a transport can do, and in what they differ. What one cannot do it refuses, with an error that names it; only
// retention and what is told late (end_at_once) show in nothing else.
struct Features {
  std::string_view name;
  bool seek = true;              // a subscription may start at any offset
  bool seek_by_time = true;      // OffsetAt
  bool end_at_once = true;       // what End tells can be polled without waiting
  bool retention = true;         // TopicOptions::retention takes effect; else what is older stays
  bool groups_share = true;      // the members of a group share partitions; else the first holds all
  bool groups_remember = false;  // a member that comes back soon has the partitions that it had
  bool groups_show_lag = false;  // the transport's own tools show what Membership::Commit told
  size_t message_bytes_max = events::kDataBytesMax;
  size_t attributes_bytes_max = 0;  // of an event, their names among them; 0: what the envelope allows
  bool number_words = true;      // between dots a topic's name may have a word that is a number
  uint32_t topics_max = 0;       // 0: no limit but memory and disk
};

struct TopicOptions {
  // The service that writes it: from this process on, only PublishTo does. Empty: anybody may.
  std::string_view owner = {};
  // What is older may go, and may stay for longer: it goes in pieces, and not at all on the embedded transport. Zero:
  // kept for ever, or as long as the transport is set to.
  std::chrono::milliseconds retention{0};
};

struct TopicInfo {
  std::string name;
  uint32_t partitions = 0;
  std::string owner;  // the one service that writes it; empty: anybody may
  std::chrono::milliseconds retention{0};  // of its own, where the transport tells; zero: none
};

struct Message {
  uint64_t offset = 0;
  events::EventView event;
  // Not empty: this is no event, and why; `event` has nothing but the original bytes, as its data.
  std::string_view problem;
  // So many offsets before this one have no message and never had: the subscription knows that nothing is missing.
  uint64_t vacant = 0;
};

// Messages of one partition, in order, with what keeps their views alive.
struct MessageBatch {
  std::vector<Message> messages;
  std::vector<std::shared_ptr<const void>> pins;
  // Not 0: what lies behind the last message and before this offset has no message and never had. A subscription tells
  // so where it knows before the next message comes, and may tell it again with that.
  uint64_t vacant_to = 0;

  void Clear() {
    messages.clear();
    pins.clear();
    vacant_to = 0;
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
  // Replaces the batch by the next messages; none when the timeout passes first, or when vacant_to is all that is new.
  // Errors: kUnavailable, kCorrupt, kNotFound (the topic no longer has what is next: its retention is over, or the topic
  // is gone).
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
  // From where on a subscription gets all that came to the topic at this time (microseconds since 1970) or later, and little
  // that came before; the end when nothing did. Errors: as End, kUnsupported (Features::seek_by_time).
  virtual Result<uint64_t> OffsetAt(std::string_view topic, uint32_t partition, int64_t time_us) = 0;
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

// The partitions of a topic that a member of a group is to work on.
struct Share {
  std::set<uint32_t> held;
  // Still held, and wanted by another member: to be released when the work on them has ended.
  std::set<uint32_t> to_release;

  bool operator==(const Share&) const = default;
};

// Membership in a group that shares a topic's partitions: each is held by at most one member, and by one as long as there
// is any. What a member believes to hold may be another's by now (it was paused, or cut off from the broker), so whoever
// writes on the strength of it must claim the partition (runtime/inbox.h). It lasts without being polled. Destroying it
// leaves the group: at once, or with Features::groups_remember when its session ends. Not thread-safe, except for Wake.
class Membership {
 public:
  virtual ~Membership() = default;
  // The share now; waits while it is the one that was told last. What was in it and no longer is, is lost: another member
  // may be at work on it. Errors: kUnavailable (the broker is away, and nothing is held); any other ends the membership,
  // such as kConflict: another member has its name.
  virtual Result<Share> Poll(std::chrono::milliseconds timeout) = 0;
  // Of Share::to_release: the work on it has ended. Nothing happens when it was lost meanwhile. Errors: kInvalid (it is
  // not to be released), and what ended the membership.
  virtual Status Release(uint32_t partition) = 0;
  // All of a held partition before offset `next` is done with: where the transport's own tools see a group's lag. Does
  // not wait, and may be lost; the shard's position is the truth. Nothing happens for what is not held.
  virtual Status Commit(uint32_t partition, uint64_t next) = 0;
  // From any thread: a Poll that waits returns.
  virtual void Wake() = 0;
};

// Thread-safe.
class Transport : public Publisher, public Subscriber {
 public:
  virtual Features features() const = 0;
  // Fine when the topic exists like that. Errors: kConflict (other partitions, another owner, another retention or
  // replication), kInvalid (name), kExhausted.
  virtual Status CreateTopic(std::string_view topic, uint32_t partitions,
                             const TopicOptions& options = {}) = 0;
  // Becomes a member of a group on a topic. `instance` is unique among the members, and the same when a member comes back:
  // then it may have its partitions back at once. Names are 1 to 100 letters, digits, '.', '_' and '-'. Errors: kNotFound
  // (no such topic), kConflict (such a member is there; a transport that cannot tell ends the older one), kInvalid,
  // kUnavailable.
  virtual Result<std::unique_ptr<Membership>> Join(std::string_view topic, std::string_view group,
                                                   std::string_view instance) = 0;
  virtual Result<std::vector<TopicInfo>> Topics() = 0;
  // What stopped it for good.
  virtual Status error() const { return {}; }
};

}  // namespace leat::bus
