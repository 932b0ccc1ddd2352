#include "bus/rabbitmq/rabbitmq_transport.h"

#include <amqp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <set>

#include "bus/group.h"
#include "bus/partitioner.h"
#include "bus/rabbitmq/link.h"
#include "bus/rabbitmq/message.h"
#include "bus/rabbitmq/rabbitmq_membership.h"
#include "core/bytes.h"
#include "core/clock.h"
#include "core/log.h"

namespace leat::bus {

using rabbitmq::Connection;
using rabbitmq::Link;

namespace {

constexpr std::string_view kComponent = "rabbitmq";
constexpr std::string_view kOffsetHeader = "x-stream-offset";
// The first message of every stream: no event.
constexpr std::string_view kMarkType = "leat.mark";
constexpr amqp_channel_t kChannel = 1;
constexpr uint16_t kPrefetch = 256;
constexpr size_t kUnconfirmedMax = 4096;
constexpr size_t kBurstBytesMax = 256u << 10;  // sent before what comes is read
constexpr size_t kShortTextBytesMax = 255;  // of a routing key
// What is older than its retention goes when the stream begins a new segment.
constexpr int64_t kSegmentBytesOfRetention = 4 << 20;
constexpr auto kBindingsMax = std::chrono::seconds(10);
constexpr auto kPause = std::chrono::milliseconds(20);  // before what failed is tried again
// Behind the newest chunk nothing more comes for so long.
constexpr auto kSettle = std::chrono::milliseconds(30);

amqp_bytes_t Bytes(std::string_view text) { return {text.size(), const_cast<char*>(text.data())}; }
std::string_view View(const amqp_bytes_t& bytes) {
  return {static_cast<const char*>(bytes.bytes), bytes.len};
}

amqp_table_entry_t TextEntry(std::string_view name, std::string_view text) {
  amqp_table_entry_t entry{};
  entry.key = Bytes(name);
  entry.value.kind = AMQP_FIELD_KIND_UTF8;
  entry.value.value.bytes = Bytes(text);
  return entry;
}
amqp_table_entry_t TimeEntry(std::string_view name, uint64_t seconds) {
  amqp_table_entry_t entry{};
  entry.key = Bytes(name);
  entry.value.kind = AMQP_FIELD_KIND_TIMESTAMP;
  entry.value.value.u64 = seconds;
  return entry;
}
amqp_table_entry_t NumberEntry(std::string_view name, int64_t number) {
  amqp_table_entry_t entry{};
  entry.key = Bytes(name);
  entry.value.kind = AMQP_FIELD_KIND_I64;
  entry.value.value.i64 = number;
  return entry;
}

// What a topic "a.0" publishes would be bound to partition 0 of topic "a".
Status CheckWords(std::string_view topic) {
  for (size_t dot = topic.find('.'); dot != std::string_view::npos;) {
    const size_t next = topic.find('.', dot + 1);
    const std::string_view word =
        topic.substr(dot + 1, next == std::string_view::npos ? next : next - dot - 1);
    if (!word.empty() && word.find_first_not_of("0123456789") == std::string_view::npos) {
      return Invalid("topic " + std::string(topic) + ": its word \"" + std::string(word) +
                         "\" is a number, as partitions are",
                     "name it otherwise: RabbitMQ's routing keys are words between dots");
    }
    dot = next;
  }
  return {};
}

// A message with its memory.
class Received {
 public:
  explicit Received(const amqp_message_t& message) : message_(message) {}
  ~Received() { amqp_destroy_message(&message_); }
  Received(const Received&) = delete;
  Received& operator=(const Received&) = delete;
  const amqp_basic_properties_t& properties() const { return message_.properties; }
  std::string_view body() const { return View(message_.body); }
  uint64_t offset = 0;  // of the stream
  uint64_t vacant = 0;  // numbers of the stream's own before it
  uint64_t tag = 0;     // of the delivery

 private:
  amqp_message_t message_;
};

// Reads what follows a deliver or return.
Result<std::shared_ptr<Received>> ReadMessage(Connection* connection, amqp_channel_t channel) {
  amqp_message_t message;
  LEAT_TRY(connection->Check(amqp_read_message(connection->state(), channel, &message, 0),
                             "reading a message"));
  auto received = std::make_shared<Received>(message);
  const amqp_table_t& headers = received->properties().headers;
  for (int i = 0; i < headers.num_entries; ++i) {
    const auto& entry = headers.entries[i];
    if (View(entry.key) == kOffsetHeader && entry.value.kind == AMQP_FIELD_KIND_I64) {
      received->offset = static_cast<uint64_t>(entry.value.value.i64);
    }
  }
  return received;
}

Status DeclareExchange(Connection* connection, const std::string& exchange) {
  amqp_exchange_declare(connection->state(), kChannel, Bytes(exchange), amqp_cstring_bytes("topic"),
                        0, 1, 0, 0, amqp_empty_table);
  return connection->Reply("exchange " + exchange);
}

// Consumes a stream on a channel.
Status Consume(Connection* connection, amqp_channel_t channel, const std::string& queue,
               const amqp_table_entry_t& offset) {
  amqp_basic_qos(connection->state(), channel, 0, kPrefetch, 0);
  LEAT_TRY(connection->Reply("prefetch"));
  amqp_table_entry_t entry = offset;
  const amqp_table_t arguments = {1, &entry};
  amqp_basic_consume(connection->state(), channel, Bytes(queue), amqp_empty_bytes, 0, 0, 0,
                     arguments);
  return connection->Reply("following " + queue);
}

// The offset, as the stream counts, of the first message that a consumer gets who begins there; nothing when there is none.
Result<std::optional<uint64_t>> FirstFrom(const RabbitMqOptions& options, const std::string& queue,
                                          const amqp_table_entry_t& offset) {
  constexpr amqp_channel_t kOnlyChannel = 1;
  constexpr int kNoHeartbeats = 0;
  timeval wait{2, 0};  // nothing tells that there is none
  Connection connection;
  LEAT_TRY(connection.Open(options, kNoHeartbeats));
  LEAT_TRY(connection.OpenChannel(kOnlyChannel));
  LEAT_TRY(Consume(&connection, kOnlyChannel, queue, offset));
  for (;;) {
    amqp_frame_t frame;
    const int status = amqp_simple_wait_frame_noblock(connection.state(), &frame, &wait);
    if (status == AMQP_STATUS_TIMEOUT) return std::nullopt;
    LEAT_TRY(connection.Check(status, "waiting for a message of " + queue));
    if (frame.frame_type != AMQP_FRAME_METHOD) continue;
    const auto method = frame.payload.method.id;
    if (method == AMQP_BASIC_CANCEL_METHOD || method == AMQP_CHANNEL_CLOSE_METHOD ||
        method == AMQP_CONNECTION_CLOSE_METHOD) {
      return Fail(ErrorClass::kUnavailable, "rabbitmq: " + queue + " was taken away", "try again");
    }
    if (method != AMQP_BASIC_DELIVER_METHOD) continue;
    LEAT_ASSIGN(const auto message, ReadMessage(&connection, frame.channel));
    return message->offset;
  }
}

// ---- publishing

// Waits for the confirms of one publish.
struct Confirms {
  std::mutex mutex;
  std::condition_variable done;
  size_t left = 0;
  Status status;

  void Done(const Status& one) {
    std::lock_guard lock(mutex);
    if (!one && status) status = one;
    if (--left == 0) done.notify_one();
  }
};

// Publishes with confirms, at most kUnconfirmedMax of them open.
class Sender final : public Link {
 public:
  explicit Sender(const RabbitMqOptions& options) : Link(options, "publisher") { Start(); }
  ~Sender() override { Stop(); }

  struct Item {
    std::string key;  // routing key
    std::string message_id;
    const events::EventView* event =
        nullptr;            // lives until the confirms are there, or were given up
    std::string_view type;  // a message without an event: its type
    std::string queue;      // straight to this queue, by the default exchange
  };

  // Items must outlive the call alone: what was not sent by its end is not sent any more.
  Status Send(std::vector<Item> items) {
    if (items.empty()) return {};
    auto confirms = std::make_shared<Confirms>();
    confirms->left = items.size();
    const auto batch = std::make_shared<Batch>(Batch{std::move(items), 0, confirms});
    {
      std::lock_guard lock(mutex_);
      waiting_.push_back(batch);
    }
    Post([this](Connection* connection) { return SendWaiting(connection); });
    std::unique_lock lock(confirms->mutex);
    const bool all = confirms->done.wait_for(lock, options_.confirm_timeout,
                                             [&] { return confirms->left == 0; });
    const Status status = confirms->status;
    lock.unlock();
    if (all) return status;
    GiveUp(batch);
    const auto why = this->status();
    return Fail(ErrorClass::kUnavailable,
                "rabbitmq: no confirm within " + std::to_string(options_.confirm_timeout.count()) +
                    " ms" +
                    (!blocked_reason().empty() ? ": the broker has an alarm: " + blocked_reason()
                     : why                     ? ""
                                               : ": " + why.error().message),
                "publish again");
  }

 private:
  struct Batch {
    std::vector<Item> items;
    size_t sent = 0;
    std::shared_ptr<Confirms> confirms;
  };

  std::string blocked_reason() const {
    std::lock_guard lock(mutex_);
    return blocked_;
  }
  // Its items are not looked at any more once this returns.
  void GiveUp(const std::shared_ptr<Batch>& batch) {
    std::lock_guard lock(mutex_);
    std::erase(waiting_, batch);
  }

  Status OnConnected(Connection* connection) override {
    LEAT_TRY(connection->OpenChannel(kChannel));
    amqp_confirm_select(connection->state(), kChannel);
    LEAT_TRY(connection->Reply("asking for confirms"));
    LEAT_TRY(DeclareExchange(connection, options_.exchange));
    next_tag_ = 1;
    if (lost_) connected_at_ = std::chrono::steady_clock::now();
    {
      std::lock_guard lock(mutex_);
      blocked_.clear();
    }
    return {};
  }
  Status OnServing(Connection* connection) override { return SendWaiting(connection); }
  void OnLost(const Error& error) override {
    lost_ = true;
    // Nobody knows what became of these.
    for (const auto& [tag, sent] : open_) sent.confirms->Done(std::unexpected(error));
    open_.clear();
    std::vector<std::shared_ptr<Batch>> waiting;
    {
      std::lock_guard lock(mutex_);
      waiting.swap(waiting_);
    }
    for (const auto& batch : waiting) {
      for (size_t i = batch->sent; i < batch->items.size(); ++i)
        batch->confirms->Done(std::unexpected(error));
    }
  }

  // Several are put into one segment: else the broker is woken for each.
  Status SendWaiting(Connection* connection) {
    if (open_.size() >= kUnconfirmedMax) return {};
    {
      std::lock_guard lock(mutex_);
      if (!blocked_.empty() || waiting_.empty()) return {};
    }
    Cork(connection, 1);
    auto status = SendAll(connection);
    Cork(connection, 0);
    return status;
  }
  static void Cork(Connection* connection, int on) {
    setsockopt(amqp_get_sockfd(connection->state()), IPPROTO_TCP, TCP_CORK, &on, sizeof on);
  }
  Status SendAll(Connection* connection) {
    for (size_t bytes = 0;;) {
      if (open_.size() >= kUnconfirmedMax) return {};
      if (bytes >= kBurstBytesMax) {
        // What the broker has to say is read in between: of an alarm on it reads no more, and what is sent waits.
        Post([this](Connection* again) { return SendWaiting(again); });
        return {};
      }
      // The lock keeps the items: whoever gives them up waits for one message.
      std::lock_guard lock(mutex_);
      if (!blocked_.empty() || waiting_.empty()) return {};
      const auto batch = waiting_.front();
      if (batch->sent == batch->items.size()) {
        waiting_.erase(waiting_.begin());
        continue;
      }
      const Item& item = batch->items[batch->sent];
      LEAT_TRY(SendOne(connection, item));
      bytes += item.event == nullptr ? 0 : item.event->data.size();
      ++batch->sent;
      open_.emplace(next_tag_++,
                    Sent{batch->confirms, batch->items[batch->sent - 1].message_id, {}});
    }
  }

  Status SendOne(Connection* connection, const Item& item) {
    amqp_basic_properties_t properties{};
    properties._flags =
        AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TYPE_FLAG;
    properties.delivery_mode = AMQP_DELIVERY_PERSISTENT;
    properties.message_id = Bytes(item.message_id);
    std::string_view body;
    if (item.event == nullptr) {
      properties.type = Bytes(item.type);
    } else {
      headers_.Set(*item.event, &properties);
      body = item.event->data;
    }
    const bool straight = !item.queue.empty();
    return connection->Check(
        amqp_basic_publish(connection->state(), kChannel,
                           straight ? amqp_empty_bytes : Bytes(options_.exchange),
                           Bytes(straight ? item.queue : item.key), 1, 0, &properties, Bytes(body)),
        "publishing");
  }

  Status OnMethod(Connection* connection, const amqp_frame_t& frame) override {
    const auto& method = frame.payload.method;
    switch (method.id) {
      case AMQP_BASIC_ACK_METHOD: {
        const auto* ack = static_cast<const amqp_basic_ack_t*>(method.decoded);
        Confirmed(ack->delivery_tag, ack->multiple != 0, {});
        break;
      }
      case AMQP_BASIC_NACK_METHOD: {
        const auto* nack = static_cast<const amqp_basic_nack_t*>(method.decoded);
        Confirmed(nack->delivery_tag, nack->multiple != 0,
                  Fail(ErrorClass::kUnavailable, "rabbitmq: the broker did not take a message",
                       "publish again"));
        break;
      }
      case AMQP_BASIC_RETURN_METHOD: {
        // It is confirmed all the same, after this.
        LEAT_ASSIGN(const auto message, ReadMessage(connection, frame.channel));
        for (auto& [tag, sent] : open_) {
          if (sent.message_id != View(message->properties().message_id)) continue;
          // A broker that was started again finds its bindings a moment after it lets us in.
          const bool settled = std::chrono::steady_clock::now() - connected_at_ > kBindingsMax;
          sent.verdict = Fail(settled ? ErrorClass::kNotFound : ErrorClass::kUnavailable,
                              "rabbitmq: no queue is bound for a message",
                              settled ? "create its topic first" : "publish again");
        }
        break;
      }
      case AMQP_CONNECTION_BLOCKED_METHOD: {
        const auto* blocked = static_cast<const amqp_connection_blocked_t*>(method.decoded);
        std::lock_guard lock(mutex_);
        blocked_ = std::string(View(blocked->reason));
        core::LogWarning(kComponent, "the broker has an alarm, nothing is published: " + blocked_);
        break;
      }
      case AMQP_CONNECTION_UNBLOCKED_METHOD: {
        std::lock_guard lock(mutex_);
        blocked_.clear();
        core::LogInfo(kComponent, "the broker's alarm is over");
        break;
      }
      default:
        break;
    }
    return {};
  }
  Status OnPause(Connection* connection) override { return SendWaiting(connection); }

  void Confirmed(uint64_t tag, bool multiple, const Status& status) {
    const auto begin = multiple ? open_.begin() : open_.find(tag);
    if (begin == open_.end()) return;  // no tag of ours
    const auto end = open_.upper_bound(tag);
    for (auto one = begin; one != end; ++one) {
      one->second.confirms->Done(one->second.verdict ? status : one->second.verdict);
    }
    open_.erase(begin, end);
  }

  // Of the thread alone.
  uint64_t next_tag_ = 1;
  bool lost_ = false;  // the connection, before
  std::chrono::steady_clock::time_point connected_at_;  // again
  rabbitmq::EventHeaders headers_;  // of the message being sent
  struct Sent {
    std::shared_ptr<Confirms> confirms;
    std::string message_id;
    Status verdict;  // of the broker, before it confirms
  };
  std::map<uint64_t, Sent> open_;  // by delivery tag
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<Batch>> waiting_;  // guarded by mutex_
  std::string blocked_;                          // why, while it is; guarded by mutex_
};

// ---- following

// One stream, through a connection of its own and a bounded queue.
class StreamSubscription final : public Subscription, public Link {
 public:
  StreamSubscription(const RabbitMqOptions& options, std::string queue, uint64_t offset)
      : Link(options, queue), queue_(std::move(queue)), wanted_(offset) {
    Start();
  }
  ~StreamSubscription() override { Stop(); }

  Status Poll(const PollLimits& limits, MessageBatch* batch) override;
  void Seek(uint64_t offset) override {
    {
      std::lock_guard lock(mutex_);
      wanted_ = offset;
      queued_.clear();
      gone_ = {};
      seeking_ = true;
    }
    Post([this](Connection* connection) -> Status {
      LEAT_TRY(
          connection->Check(amqp_channel_close(connection->state(), channel_, AMQP_REPLY_SUCCESS),
                            "closing a channel"));
      vacant_to_ = 0;
      return Follow(connection);
    });
  }
  void Wake() override {
    {
      std::lock_guard lock(mutex_);
      woken_ = true;
    }
    arrived_.notify_all();
  }

 private:
  Status OnConnected(Connection* connection) override { return Follow(connection); }
  // On a new channel: what still comes on another one does not count.
  Status OpenNext(Connection* connection) {
    channel_ = static_cast<amqp_channel_t>(
        channel_ % std::min(kChannelsInTurn, connection->ChannelsMax()) + 1);
    acknowledged_ = 0;
    return connection->OpenChannel(channel_);
  }
  Status Follow(Connection* connection) {
    LEAT_TRY(OpenNext(connection));
    behind_ = 0;
    looks_ = false;
    uint64_t from;
    {
      std::lock_guard lock(mutex_);
      if (!queued_.empty()) wanted_ = queued_.front()->offset - queued_.front()->vacant - 1;
      queued_.clear();
      from = wanted_;
      seeking_ = false;
      unacknowledged_ = 0;
    }
    return Consume(connection, channel_, queue_,
                   NumberEntry(kOffsetHeader, static_cast<int64_t>(from + 1)));
  }
  // Whether what is missing before message `offset` was there once: asks for the first of the stream.
  void LookBehind(uint64_t offset) {
    behind_ = offset;
    Post([this](Connection* connection) -> Status {
      if (behind_ == 0) return {};  // followed anew meanwhile
      LEAT_TRY(
          connection->Check(amqp_channel_close(connection->state(), channel_, AMQP_REPLY_SUCCESS),
                            "closing a channel"));
      LEAT_TRY(OpenNext(connection));
      looks_ = true;
      return Consume(connection, channel_, queue_, TextEntry(kOffsetHeader, "first"));
    });
  }
  // With the number of the stream's first message.
  Status LookedBehind(uint64_t first) {
    looks_ = false;
    {
      std::lock_guard lock(mutex_);
      if (seeking_) return {};  // followed anew in a moment
      // It is followed again from there: nothing of that may be missing.
      vacant_from_ = queued_.empty() ? wanted_ + 1 : queued_.front()->offset - queued_.front()->vacant;
      if (first > vacant_from_) {
        gone_ = Fail(ErrorClass::kNotFound,
                     queue_ + " no longer has offset " + std::to_string(vacant_from_ - 1) +
                         ": it begins at " + std::to_string(first - 1),
                     "give its topic a longer retention, or build anew from a snapshot");
        arrived_.notify_all();
        return {};
      }
    }
    vacant_to_ = behind_;
    Post([this](Connection* again) -> Status {
      LEAT_TRY(again->Check(amqp_channel_close(again->state(), channel_, AMQP_REPLY_SUCCESS),
                            "closing a channel"));
      return Follow(again);
    });
    return {};
  }
  void OnLost(const Error&) override {}
  Status OnMethod(Connection* connection, const amqp_frame_t& frame) override {
    const auto& method = frame.payload.method;
    if (method.id == AMQP_BASIC_CANCEL_METHOD)
      return Fail(ErrorClass::kUnavailable, queue_ + " was deleted");
    if (method.id != AMQP_BASIC_DELIVER_METHOD) return {};
    const uint64_t tag = static_cast<const amqp_basic_deliver_t*>(method.decoded)->delivery_tag;
    LEAT_ASSIGN(auto message, ReadMessage(connection, frame.channel));
    if (frame.channel != channel_) return {};
    message->tag = tag;
    if (looks_) return LookedBehind(message->offset);
    if (behind_ > 0) return {};
    {
      std::lock_guard lock(mutex_);
      // Older than asked for: a stream begins with a whole chunk.
      if (seeking_ || message->offset < wanted_ + 1) {
        unacknowledged_ = tag;
      } else if (message->offset > wanted_ + 1 + kNumbersOfASegment &&
                 (wanted_ + 1 < vacant_from_ || message->offset > vacant_to_)) {
        LookBehind(message->offset);
      } else {
        message->vacant = message->offset - (wanted_ + 1);
        wanted_ = message->offset;  // the next one's, as the user counts
        queued_.push_back(std::move(message));
        fresh_ = true;
      }
    }
    return {};
  }
  // A reader that were woken for every message would take them one by one.
  Status OnPause(Connection* connection) override {
    if (fresh_) arrived_.notify_all();
    fresh_ = false;
    return AcknowledgeSome(connection);
  }
  // Several at a time.
  Status AcknowledgeSome(Connection* connection) {
    if (behind_ > 0) return {};  // what was taken came on another channel
    uint64_t up_to;
    {
      std::lock_guard lock(mutex_);
      up_to = unacknowledged_;
    }
    if (up_to < acknowledged_ + kPrefetch / 4) return {};
    acknowledged_ = up_to;
    return connection->Check(amqp_basic_ack(connection->state(), channel_, up_to, 1),
                             "acknowledging");
  }

  static constexpr uint16_t kChannelsInTurn = 1000;
  // A stream's segment begins with what the broker knows of those who publish, which has a number.
  static constexpr uint64_t kNumbersOfASegment = 1;
  const std::string queue_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<std::shared_ptr<Received>> queued_;  // guarded by mutex_
  uint64_t wanted_;                               // offset to queue next; guarded by mutex_
  Status gone_;                  // retention has taken what is wanted; guarded by mutex_
  uint64_t unacknowledged_ = 0;  // tag of the newest that was taken; guarded by mutex_
  bool woken_ = false;           // guarded by mutex_
  bool seeking_ = false;         // what comes is from before a seek; guarded by mutex_
  bool fresh_ = false;           // of the thread: something was queued since the last pause
  amqp_channel_t channel_ = 0;   // of the thread, as all below
  uint64_t behind_ = 0;     // stream offset of a message, of what lies before which is not known whether it was there
  bool looks_ = false;      // what comes is the first message of the stream
  // Between these stream offsets what has no message never had one.
  uint64_t vacant_from_ = 0;
  uint64_t vacant_to_ = 0;
  uint64_t acknowledged_ = 0;
};

Status StreamSubscription::Poll(const PollLimits& limits, MessageBatch* batch) {
  batch->Clear();
  struct Pinned {
    std::vector<std::shared_ptr<Received>> messages;
    std::deque<std::vector<events::Event>> structured;
    std::deque<std::string> problems;
  };
  auto pinned = std::make_shared<Pinned>();
  uint64_t last_tag = 0;
  {
    std::unique_lock lock(mutex_);
    arrived_.wait_for(lock, limits.timeout, [&] { return !queued_.empty() || woken_ || !gone_; });
    woken_ = false;
    if (queued_.empty()) LEAT_TRY(gone_);
    size_t bytes = 0;
    while (!queued_.empty() && pinned->messages.size() < limits.messages_max &&
           bytes < limits.bytes_max) {
      bytes += queued_.front()->body().size();
      pinned->messages.push_back(std::move(queued_.front()));
      queued_.pop_front();
    }
    if (!pinned->messages.empty()) last_tag = unacknowledged_ = pinned->messages.back()->tag;
  }
  if (pinned->messages.empty()) {
    return limits.timeout.count() > 0 ? status() : Status();
  }
  if (last_tag % (kPrefetch / 4) < pinned->messages.size()) {
    Post([this](Connection* connection) { return AcknowledgeSome(connection); });
  }
  std::vector<events::Event> structured;
  for (const auto& from : pinned->messages) {
    Message& to = batch->messages.emplace_back();
    to.offset = from->offset - 1;
    to.vacant = from->vacant;
    auto status =
        rabbitmq::ReadEvent(from->properties(), from->body(), &to.event, &structured);
    if (!structured.empty()) pinned->structured.push_back(std::move(structured));
    if (status) continue;
    to.event = {};
    to.event.data = from->body();
    to.problem = pinned->problems.emplace_back(status.error().Text());
  }
  batch->pins.push_back(std::move(pinned));
  return {};
}

// The ends of streams: follows each from its newest chunk on. One connection, a channel a stream.
class Tails final : public Link {
 public:
  Tails(const RabbitMqOptions& options, std::string instance)
      : Link(options, "tails"), instance_(std::move(instance)) {
    Start();
  }
  ~Tails() override { Stop(); }

  // Offset behind the newest message of the stream, as the user counts; nothing when the stream has
  // no message at all.
  Result<std::optional<uint64_t>> End(const std::string& queue) {
    std::unique_lock lock(mutex_);
    Tail& tail = Follow(lock, queue);
    const auto deadline = std::chrono::steady_clock::now() + options_.confirm_timeout;
    while (!tail.settled || tail.seen < tail.confirmed) {
      const auto now = std::chrono::steady_clock::now();
      const bool catching_up = tail.following && !tail.settled && tail.next > 0;
      // From now on every message moves it; only the first catch-up has to guess where the newest
      // chunk ends.
      if (catching_up &&
          (now >= tail.arrival + kSettle || now >= tail.followed_since + kCatchUpMax)) {
        tail.settled = true;
        continue;
      }
      if (tail.following && tail.next == 0 && now > tail.followed_since + kFirstMessage)
        return std::nullopt;
      if (!tail.error && !tail.error.error().Retryable())
        return std::unexpected(tail.error.error());
      if (now > deadline) {
        const auto why = tail.error;
        if (!why) return std::unexpected(why.error());
        return Fail(ErrorClass::kUnavailable, "rabbitmq: the end of " + queue + " is not known yet",
                    "try again");
      }
      arrived_.wait_for(lock, kSettle);
    }
    return tail.next - 1;
  }

  // To be called before the messages of these numbers are published.
  // Errors: kExhausted, kNotFound: they would not be seen to come back.
  Status Expect(const std::string& queue, const std::vector<uint64_t>& numbers) {
    std::unique_lock lock(mutex_);
    Tail& tail = Follow(lock, queue);
    if (!tail.following && !tail.error && !tail.error.error().Retryable()) return tail.error;
    for (const uint64_t number : numbers) tail.expected[number] = std::nullopt;
    return {};
  }
  // Their offsets, as the user counts.
  Result<std::vector<uint64_t>> Offsets(const std::string& queue,
                                        const std::vector<uint64_t>& numbers) {
    std::unique_lock lock(mutex_);
    Tail& tail = tails_.at(queue);
    std::vector<uint64_t> out;
    const auto deadline = std::chrono::steady_clock::now() + options_.confirm_timeout;
    for (const uint64_t number : numbers) {
      const auto& offset = tail.expected.at(number);
      arrived_.wait_until(lock, deadline, [&] { return offset.has_value(); });
      if (!offset) {
        return Fail(ErrorClass::kUnavailable,
                    "rabbitmq: a confirmed message did not come back from " + queue,
                    "publish again");
      }
      out.push_back(*offset);
    }
    return out;
  }
  void Forget(const std::string& queue, const std::vector<uint64_t>& numbers) {
    std::lock_guard lock(mutex_);
    const auto tail = tails_.find(queue);
    if (tail == tails_.end()) return;
    for (const uint64_t number : numbers) tail->second.expected.erase(number);
  }
  void Confirmed(const std::string& queue, uint64_t number) {
    std::lock_guard lock(mutex_);
    const auto tail = tails_.find(queue);
    if (tail != tails_.end()) tail->second.confirmed = std::max(tail->second.confirmed, number);
  }

 private:
  static constexpr auto kFirstMessage = std::chrono::milliseconds(5000);  // a stream without one by then has none
  static constexpr auto kCatchUpMax = std::chrono::milliseconds(1000);
  struct Tail {
    amqp_channel_t channel = 0;
    uint64_t order = UINT64_MAX;  // of being followed first
    bool following = false;
    std::chrono::steady_clock::time_point followed_since;
    Status error;
    bool settled = false;    // it has caught up since it is followed
    uint64_t next = 0;       // offset of the stream behind the newest that came; 0: none yet
    uint64_t seen = 0;       // number of our newest that came
    uint64_t confirmed = 0;  // number of our newest that was confirmed since it is followed
    std::chrono::steady_clock::time_point arrival;
    std::map<uint64_t, std::optional<uint64_t>> expected;
    uint64_t acknowledged = 0;
  };

  // Waits until the stream is followed. The lock is held again when it returns.
  Tail& Follow(std::unique_lock<std::mutex>& lock, const std::string& queue) {
    Tail& tail = tails_[queue];
    if (tail.following) return tail;
    tail.error = {};
    lock.unlock();
    Post([this, queue](Connection* connection) { return FollowNow(connection, queue); });
    lock.lock();
    arrived_.wait_for(lock, options_.timeout, [&] { return tail.following || !tail.error; });
    return tail;
  }
  Status FollowNow(Connection* connection, const std::string& queue) {
    amqp_channel_t channel;
    uint64_t next;
    {
      std::lock_guard lock(mutex_);
      Tail& tail = tails_.at(queue);
      if (tail.following) return {};
      if (next_channel_ > connection->ChannelsMax()) {
        tail.error =
            Fail(ErrorClass::kExhausted,
                 "rabbitmq: more than " + std::to_string(connection->ChannelsMax()) +
                     " partitions are followed",
                 "use fewer topics in one process, or raise the broker's channel_max");
        arrived_.notify_all();
        return {};
      }
      tail.channel = channel = next_channel_++;
      by_channel_[channel] = queue;
      next = tail.next;
    }
    auto status = connection->OpenChannel(channel);
    if (status) {
      status = Consume(connection, channel, queue,
                       next > 0 ? NumberEntry(kOffsetHeader, static_cast<int64_t>(next))
                                : TextEntry(kOffsetHeader, "last"));
    }
    if (!status && status.error().error_class == ErrorClass::kNotFound) {
      // The broker has closed the channel alone, which is free again: the other streams go on.
      amqp_channel_close_ok_t ok{};
      LEAT_TRY(connection->Check(
          amqp_send_method(connection->state(), channel, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok),
          "closing a channel"));
    }
    std::lock_guard lock(mutex_);
    Tail& tail = tails_.at(queue);
    if (status) {
      tail.order = std::min(tail.order, ++orders_);
    } else if (status.error().error_class == ErrorClass::kNotFound) {
      by_channel_.erase(channel);
      next_channel_ = channel;
    }
    tail.following = status.has_value();
    tail.settled = false;
    tail.arrival = tail.followed_since = std::chrono::steady_clock::now();
    tail.error = status;
    tail.acknowledged = 0;
    arrived_.notify_all();
    const bool missing = !status && status.error().error_class == ErrorClass::kNotFound;
    return missing ? Status() : status;
  }

  Status OnConnected(Connection*) override {
    std::lock_guard lock(mutex_);
    next_channel_ = 1;
    by_channel_.clear();
    return {};
  }
  Status OnServing(Connection* connection) override {
    // Those that were followed have their channels first; what was refused is tried when it is asked for.
    std::multimap<uint64_t, std::string> queues;
    {
      std::lock_guard lock(mutex_);
      for (const auto& [queue, tail] : tails_) {
        if (tail.error || tail.error.error().Retryable()) queues.emplace(tail.order, queue);
      }
    }
    for (const auto& [order, queue] : queues) LEAT_TRY(FollowNow(connection, queue));
    return {};
  }
  void OnLost(const Error& error) override {
    std::lock_guard lock(mutex_);
    for (auto& [queue, tail] : tails_) {
      tail.following = tail.settled = false;
      if (tail.error || tail.error.error().Retryable()) tail.error = std::unexpected(error);
    }
  }
  Status OnMethod(Connection* connection, const amqp_frame_t& frame) override {
    const auto& method = frame.payload.method;
    if (method.id == AMQP_BASIC_CANCEL_METHOD)
      return Fail(ErrorClass::kUnavailable, "rabbitmq: a stream was deleted");
    if (method.id != AMQP_BASIC_DELIVER_METHOD) return {};
    const uint64_t tag = static_cast<const amqp_basic_deliver_t*>(method.decoded)->delivery_tag;
    LEAT_ASSIGN(const auto message, ReadMessage(connection, frame.channel));
    const std::string_view id = View(message->properties().message_id);
    uint64_t number = 0;
    if (id.starts_with(instance_)) {
      if (const auto parsed = core::ParseUint64(id.substr(instance_.size()))) number = *parsed;
    }
    uint64_t acknowledge = 0;
    {
      std::lock_guard lock(mutex_);
      Tail& tail = tails_.at(by_channel_.at(frame.channel));
      if (message->offset >= tail.next) {
        tail.next = message->offset + 1;
        tail.arrival = std::chrono::steady_clock::now();
        tail.seen = std::max(tail.seen, number);
        if (const auto expected = tail.expected.find(number);
            number > 0 && expected != tail.expected.end()) {
          if (!expected->second) expected->second = message->offset - 1;
        }
      }
      if (tag >= tail.acknowledged + kPrefetch / 4) tail.acknowledged = acknowledge = tag;
    }
    fresh_ = true;
    if (acknowledge == 0) return {};
    return connection->Check(amqp_basic_ack(connection->state(), frame.channel, acknowledge, 1),
                             "acknowledging");
  }

  Status OnPause(Connection*) override {
    if (fresh_) arrived_.notify_all();
    fresh_ = false;
    return {};
  }

  const std::string instance_;
  bool fresh_ = false;  // of the thread: something came since the last pause
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::map<std::string, Tail> tails_;                 // guarded by mutex_; never erased
  std::map<amqp_channel_t, std::string> by_channel_;  // guarded by mutex_
  amqp_channel_t next_channel_ = 1;                   // guarded by mutex_
  uint64_t orders_ = 0;                               // guarded by mutex_
};

std::string NewInstance() {
  static std::atomic<uint64_t> count{0};
  return std::to_string(core::SystemClock().NowUs()) + "-" + std::to_string(getpid()) + "-" +
         std::to_string(count++) + "/";
}

}  // namespace

class RabbitMqTransport::Impl {
 public:
  explicit Impl(const RabbitMqOptions& given)
      : options(given), instance(NewInstance()), sender(options), tails(options, instance) {}

  std::string QueueOf(std::string_view topic, uint32_t partition) const {
    return options.exchange + "." + std::string(topic) + "." + std::to_string(partition);
  }
  static std::string BindingOf(std::string_view topic, uint32_t partition) {
    return std::string(topic) + "." + std::to_string(partition) + ".#";
  }
  std::string Registry() const { return options.exchange + ".topics"; }

  // Runs it with a new `admin`, and again while what it says passes: somebody else's lock, and the moment in which a broker
  // that was started again does not know its streams.
  Status Connected(const std::function<Status()>& work);
  // The same while no other process creates topics.
  Status Locked(const std::function<Status()>& work);
  // Whether a stream has no message; the broker's count is some seconds late.
  Result<bool> IsEmpty(const std::string& queue, uint32_t count);
  // Declares a stream, which has a mark when it is bound. `known`: the list of topics has it. Errors: kConflict (the queue is
  // there with other arguments).
  Status DeclareStream(const std::string& queue, const std::string& binding,
                       std::chrono::milliseconds retention, bool known = false);
  Status BindStream(const std::string& queue, const std::string& binding);
  // Binds the streams of a topic. Errors: kNotFound (one of them is not there, or has nothing).
  Status BindStreams(const TopicInfo& topic);
  Status ReadRegistry();
  Result<uint32_t> Partitions(std::string_view topic, uint32_t partition);
  Result<TopicInfo> Known(std::string_view topic);
  Result<std::vector<events::Position>> Publish(std::string_view topic, std::optional<uint32_t> to,
                                                const std::vector<events::Event>& events,
                                                bool read_back);

  const RabbitMqOptions options;
  const std::string instance;
  std::atomic<uint64_t> next_number{1};  // of a message; the message id is the instance and this
  Sender sender;
  Tails tails;
  std::mutex admin_mutex;
  Connection admin;  // guarded by admin_mutex
  std::mutex registry_mutex;
  std::unique_ptr<StreamSubscription> registry;          // guarded by registry_mutex
  uint64_t registry_next = 0;                            // guarded by registry_mutex
  std::map<std::string, TopicInfo, std::less<>> topics;  // guarded by registry_mutex
  // Topics whose streams and bindings were seen to be there; guarded by registry_mutex.
  std::set<std::string, std::less<>> whole;
};

Status RabbitMqTransport::Impl::Connected(const std::function<Status()>& work) {
  std::lock_guard guard(admin_mutex);
  const auto deadline = std::chrono::steady_clock::now() + options.timeout;
  for (;;) {
    const auto once = [&]() -> Status {
      LEAT_TRY(admin.Open(options, options.heartbeat_s));
      LEAT_TRY(admin.OpenChannel(kChannel));
      return work();
    };
    auto status = once();
    admin.Close();
    if (status) return status;
    if (!status.error().Retryable() || std::chrono::steady_clock::now() > deadline) return status;
    std::this_thread::sleep_for(kPause);
  }
}

Status RabbitMqTransport::Impl::Locked(const std::function<Status()>& work) {
  const std::string lock = options.exchange + ".lock";
  return Connected([&]() -> Status {
    // A queue that is exclusive to a connection is gone with it; heartbeats end that of who is cut off.
    amqp_queue_declare(admin.state(), kChannel, Bytes(lock), 0, 0, 1, 1, amqp_empty_table);
    if (auto locked = admin.Reply("locking " + lock); !locked) {
      const bool taken = locked.error().error_class == ErrorClass::kConflict;
      return taken ? Fail(ErrorClass::kUnavailable, locked.error().message) : locked;
    }
    LEAT_TRY(work());
    amqp_queue_delete(admin.state(), kChannel, Bytes(lock), 0, 0);
    LEAT_TRY(admin.Reply("unlocking " + lock));
    return admin.Check(amqp_channel_close(admin.state(), kChannel, AMQP_REPLY_SUCCESS),
                       "closing a channel");
  });
}

Status RabbitMqTransport::Impl::DeclareStream(const std::string& queue, const std::string& binding,
                                              std::chrono::milliseconds retention, bool known) {
  const std::string age =
      std::to_string(std::chrono::ceil<std::chrono::seconds>(retention).count()) + "s";
  amqp_table_entry_t arguments[] = {
      TextEntry("x-queue-type", "stream"), TextEntry("x-max-age", age),
      NumberEntry("x-stream-max-segment-size-bytes", kSegmentBytesOfRetention)};
  const int count = retention.count() > 0 ? std::size(arguments) : 1;
  const auto* declared =
      amqp_queue_declare(admin.state(), kChannel, Bytes(queue), 0, 1, 0, 0, {count, arguments});
  if (auto status = admin.Reply("declaring " + queue); !status) {
    if (status.error().message.find(": 541 ") != std::string::npos) {
      status.error().remedy =
          "a broker that was killed while it made this queue answers so: docs/transports.md says "
          "how to take it away";
    }
    if (status.error().error_class != ErrorClass::kConflict) return status;
    return Fail(ErrorClass::kConflict,
                "queue " + queue + " is there, and is another one than the stream that was wanted" +
                    (retention.count() > 0 ? " (x-max-age " + age + ")" : "") + ": " +
                    status.error().message,
                "delete that queue if nobody needs it, or set topics.prefix");
  }
  bool empty = declared->message_count == 0;
  if (known) {
    LEAT_ASSIGN(empty, IsEmpty(queue, declared->message_count));
  }
  if (empty) {
    // Before anybody's message can come.
    Sender::Item mark;
    mark.message_id = "mark";
    mark.type = kMarkType;
    mark.queue = queue;
    std::vector<Sender::Item> items;
    items.push_back(std::move(mark));
    LEAT_TRY(sender.Send(std::move(items)));
  }
  return binding.empty() ? Status() : BindStream(queue, binding);
}

Result<bool> RabbitMqTransport::Impl::IsEmpty(const std::string& queue, uint32_t count) {
  if (count > 0) return false;
  LEAT_ASSIGN(const auto first, FirstFrom(options, queue, TextEntry(kOffsetHeader, "first")));
  return !first;
}

Status RabbitMqTransport::Impl::BindStream(const std::string& queue, const std::string& binding) {
  amqp_queue_bind(admin.state(), kChannel, Bytes(queue), Bytes(options.exchange), Bytes(binding),
                  amqp_empty_table);
  return admin.Reply("binding " + queue);
}

Status RabbitMqTransport::Impl::BindStreams(const TopicInfo& topic) {
  return Connected([&]() -> Status {
    LEAT_TRY(DeclareExchange(&admin, options.exchange));
    for (uint32_t partition = 0; partition < topic.partitions; ++partition) {
      const std::string queue = QueueOf(topic.name, partition);
      const auto* declared =
          amqp_queue_declare(admin.state(), kChannel, Bytes(queue), 1, 1, 0, 0, amqp_empty_table);
      LEAT_TRY(admin.Reply("looking for " + queue));
      LEAT_ASSIGN(const bool empty, IsEmpty(queue, declared->message_count));
      if (empty) return Fail(ErrorClass::kNotFound, queue + " is empty");
      LEAT_TRY(BindStream(queue, BindingOf(topic.name, partition)));
    }
    return {};
  });
}

// registry_mutex must be held.
Status RabbitMqTransport::Impl::ReadRegistry() {
  LEAT_ASSIGN(const auto end, tails.End(Registry()));
  if (!end) return {};
  if (registry == nullptr)
    registry = std::make_unique<StreamSubscription>(options, Registry(), registry_next);
  MessageBatch batch;
  const auto deadline = std::chrono::steady_clock::now() + options.timeout;
  while (registry_next < *end) {
    const auto polled = registry->Poll({}, &batch);
    if (std::chrono::steady_clock::now() > deadline) {
      LEAT_TRY(polled);
      return Fail(ErrorClass::kUnavailable, "rabbitmq: the list of topics cannot be read",
                  "try again");
    }
    for (const Message& message : batch.messages) {
      registry_next = message.offset + 1;
      const auto partitions = core::ParseUint64(message.event.data);
      if (!message.problem.empty() || !partitions) continue;
      TopicInfo info{std::string(message.event.subject), static_cast<uint32_t>(*partitions), {}};
      for (const auto& [name, text] : message.event.extensions) {
        if (name == "owner") info.owner = text;
        if (name == "retentionms") {
          info.retention = std::chrono::milliseconds(core::ParseUint64(text).value_or(0));
        }
      }
      topics.emplace(info.name, info);  // the first one counts
    }
  }
  return {};
}

Result<TopicInfo> RabbitMqTransport::Impl::Known(std::string_view topic) {
  LEAT_TRY(events::CheckTopicName(topic));
  std::lock_guard lock(registry_mutex);
  auto found = topics.find(topic);
  if (found == topics.end()) {
    LEAT_TRY(ReadRegistry());
    found = topics.find(topic);
  }
  if (found != topics.end()) return found->second;
  return Fail(ErrorClass::kNotFound, "there is no topic " + std::string(topic), "create it first");
}

Result<uint32_t> RabbitMqTransport::Impl::Partitions(std::string_view topic, uint32_t partition) {
  LEAT_ASSIGN(const TopicInfo known, Known(topic));
  if (partition < known.partitions) return known.partitions;
  return Fail(ErrorClass::kNotFound, "topic " + std::string(topic) + " has no partition " +
                                         std::to_string(partition) + ", only " +
                                         std::to_string(known.partitions));
}

Result<std::vector<events::Position>> RabbitMqTransport::Impl::Publish(
    std::string_view topic, std::optional<uint32_t> to, const std::vector<events::Event>& events,
    bool read_back) {
  LEAT_ASSIGN(const uint32_t count, Partitions(topic, to.value_or(0)));
  for (const auto& event : events) {
    LEAT_TRY(rabbitmq::CheckMessage(event.view()));
  }
  std::vector<events::Position> positions;
  std::vector<Sender::Item> items;
  std::vector<uint64_t> numbers;
  std::map<std::string, std::vector<uint64_t>> by_queue;
  for (const auto& event : events) {
    const uint32_t partition = to ? *to : PartitionOf(KeyOf(event.view()), count);
    positions.push_back({std::string(topic), partition, 0, 0});
    Sender::Item& item = items.emplace_back();
    item.key =
        std::string(topic) + "." + std::to_string(partition) + "." + std::string(event.view().type);
    item.key.resize(std::min(item.key.size(), kShortTextBytesMax));
    numbers.push_back(next_number++);
    item.message_id = instance + std::to_string(numbers.back());
    item.event = &event.view();
    by_queue[QueueOf(topic, partition)].push_back(numbers.back());
  }
  Status status;
  for (const auto& [queue, wanted] : by_queue) {
    if (read_back && status) status = tails.Expect(queue, wanted);
  }
  if (status) status = sender.Send(std::move(items));
  if (!status && status.error().error_class == ErrorClass::kNotFound) {
    std::lock_guard lock(registry_mutex);
    whole.erase(std::string(topic));
  }
  std::map<uint64_t, uint64_t> offsets;
  for (const auto& [queue, wanted] : by_queue) {
    if (status) tails.Confirmed(queue, wanted.back());
    if (!read_back) continue;
    if (status) {
      auto found = tails.Offsets(queue, wanted);
      if (!found) status = std::unexpected(found.error());
      for (size_t i = 0; found && i < wanted.size(); ++i) offsets[wanted[i]] = (*found)[i];
    }
    tails.Forget(queue, wanted);
  }
  LEAT_TRY(status);
  if (read_back) {
    for (size_t i = 0; i < positions.size(); ++i) positions[i].offset = offsets[numbers[i]];
  }
  return positions;
}

RabbitMqTransport::RabbitMqTransport(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RabbitMqTransport::~RabbitMqTransport() = default;

Result<std::unique_ptr<RabbitMqTransport>> RabbitMqTransport::Open(const RabbitMqOptions& options) {
  auto impl = std::make_unique<Impl>(options);
  LEAT_TRY(impl->sender.WaitConnected(options.timeout));
  LEAT_TRY(impl->Locked([&] { return impl->DeclareStream(impl->Registry(), {}, {}); }));
  return std::unique_ptr<RabbitMqTransport>(new RabbitMqTransport(std::move(impl)));
}

Features RabbitMqTransport::features() const {
  Features features;
  features.name = "rabbitmq";
  features.end_at_once = false;
  features.attributes_bytes_max = rabbitmq::kAttributesBytesMax;
  features.number_words = false;
  return features;
}

Status RabbitMqTransport::CreateTopic(std::string_view topic, uint32_t partitions,
                                      const TopicOptions& options) {
  const std::string_view owner = options.owner;
  LEAT_TRY(events::CheckTopicName(topic));
  if (partitions == 0)
    return Invalid("topic " + std::string(topic) + ": 0 partitions", "at least 1");
  LEAT_TRY(CheckWords(topic));
  const auto check = [&]() -> Result<bool> {  // whether it is there
    const auto known = impl_->Known(topic);
    if (!known && known.error().error_class == ErrorClass::kNotFound) return false;
    LEAT_TRY(known);
    if (known->retention != options.retention) {
      const auto text = [](std::chrono::milliseconds retention) {
        return retention.count() == 0 ? "for ever" : std::to_string(retention.count()) + " ms";
      };
      return Fail(ErrorClass::kConflict,
                  "topic " + std::string(topic) + " has retention " + text(known->retention) +
                      ", wanted was " + text(options.retention),
                  "use another topic: a stream's arguments cannot be changed");
    }
    if (known->partitions == partitions && known->owner == owner) return true;
    return Fail(ErrorClass::kConflict,
                "topic " + std::string(topic) + " has " + std::to_string(known->partitions) +
                    " partitions" +
                    (known->owner.empty() ? "" : " and belongs to " + known->owner) + ", not " +
                    std::to_string(partitions),
                "configure as many, or use another topic: keys do not move between partitions");
  };
  LEAT_ASSIGN(bool there, check());
  bool whole = false;
  if (there) {
    {
      std::lock_guard lock(impl_->registry_mutex);
      if (impl_->whole.contains(topic)) return {};
    }
    // What the list of topics has, somebody may have deleted since.
    const auto bound =
        impl_->BindStreams({std::string(topic), partitions, std::string(owner), options.retention});
    whole = bound.has_value();
    if (!whole && bound.error().error_class != ErrorClass::kNotFound) return bound;
    if (!whole) {
      core::LogWarning(kComponent, "topic " + std::string(topic) + " is made again: " +
                                       bound.error().message);
    }
  }
  if (!whole) {
    const auto create = [&]() -> Status {
      LEAT_ASSIGN(there, check());
      LEAT_TRY(DeclareExchange(&impl_->admin, impl_->options.exchange));
      for (uint32_t partition = 0; partition < partitions; ++partition) {
        LEAT_TRY(impl_->DeclareStream(impl_->QueueOf(topic, partition),
                                      Impl::BindingOf(topic, partition), options.retention, there));
      }
      if (there) return {};
      events::EventView record;
      const std::string data = std::to_string(partitions);
      record.type = "leat.topic_created.v1";
      record.subject = topic;
      record.time_us = core::SystemClock().NowUs();
      record.data = data;
      if (!owner.empty()) record.extensions.emplace_back("owner", owner);
      const std::string retention_ms = std::to_string(options.retention.count());
      if (options.retention.count() > 0)
        record.extensions.emplace_back("retentionms", retention_ms);
      Sender::Item item;
      const uint64_t number = impl_->next_number++;
      item.message_id = impl_->instance + std::to_string(number);
      item.queue = impl_->Registry();
      item.event = &record;
      std::vector<Sender::Item> items;
      items.push_back(std::move(item));
      LEAT_TRY(impl_->sender.Send(std::move(items)));
      impl_->tails.Confirmed(impl_->Registry(), number);
      return {};
    };
    LEAT_TRY(impl_->Locked(create));
  }
  std::lock_guard lock(impl_->registry_mutex);
  impl_->whole.emplace(topic);
  return {};
}

Result<std::vector<TopicInfo>> RabbitMqTransport::Topics() {
  std::lock_guard lock(impl_->registry_mutex);
  LEAT_TRY(impl_->ReadRegistry());
  std::vector<TopicInfo> out;
  for (const auto& [name, info] : impl_->topics) out.push_back(info);
  return out;
}

Result<std::unique_ptr<Membership>> RabbitMqTransport::Join(std::string_view topic,
                                                            std::string_view group,
                                                            std::string_view instance) {
  LEAT_TRY(CheckGroup(topic, group, instance));
  LEAT_ASSIGN(const TopicInfo known, impl_->Known(topic));
  return rabbitmq::JoinGroup(impl_->options, known, group, instance);
}

Result<std::unique_ptr<Subscription>> RabbitMqTransport::Subscribe(std::string_view topic,
                                                                   uint32_t partition,
                                                                   uint64_t offset) {
  LEAT_TRY(impl_->Partitions(topic, partition));
  return std::make_unique<StreamSubscription>(impl_->options, impl_->QueueOf(topic, partition),
                                              offset);
}

Result<PartitionEnd> RabbitMqTransport::End(std::string_view topic, uint32_t partition) {
  LEAT_TRY(impl_->Partitions(topic, partition));
  LEAT_ASSIGN(const auto end, impl_->tails.End(impl_->QueueOf(topic, partition)));
  return PartitionEnd{end.value_or(0), 0};
}

Result<uint64_t> RabbitMqTransport::OffsetAt(std::string_view topic, uint32_t partition,
                                             int64_t time_us) {
  LEAT_TRY(impl_->Partitions(topic, partition));
  LEAT_ASSIGN(const auto end, End(topic, partition));  // what comes meanwhile lies behind it
  const auto time_s = static_cast<uint64_t>(std::max<int64_t>(time_us, 0)) / 1'000'000;
  const auto deadline = std::chrono::steady_clock::now() + impl_->options.timeout;
  for (;;) {
    const auto first = FirstFrom(impl_->options, impl_->QueueOf(topic, partition),
                                 TimeEntry(kOffsetHeader, time_s));
    // The stream's first message is a mark.
    if (first) return *first ? std::max<uint64_t>(**first, 1) - 1 : end.offset;
    // Whoever begins in a segment that the broker is taking away is answered with 541.
    if (!first.error().Retryable() || std::chrono::steady_clock::now() > deadline)
      return std::unexpected(first.error());
    std::this_thread::sleep_for(kPause);
  }
}

Result<std::vector<events::Position>> RabbitMqTransport::Publish(
    std::string_view topic, const std::vector<events::Event>& events) {
  LEAT_ASSIGN(const TopicInfo known, impl_->Known(topic));
  if (!known.owner.empty()) {
    return Fail(ErrorClass::kConflict,
                "topic " + std::string(topic) + " is written only by " + known.owner,
                "publish to a topic of your own");
  }
  return impl_->Publish(topic, std::nullopt, events, true);
}

Status RabbitMqTransport::PublishTo(std::string_view topic, uint32_t partition,
                                    const std::vector<events::Event>& events) {
  LEAT_TRY(impl_->Publish(topic, partition, events, false));
  return {};
}

}  // namespace leat::bus
