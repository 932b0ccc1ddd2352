#include "bus/rabbitmq/queue.h"

#include <amqp.h>

#include <algorithm>
#include <deque>
#include <map>

#include "bus/rabbitmq/link.h"
#include "bus/rabbitmq/message.h"
#include "core/log.h"

namespace leat::bus {

using rabbitmq::Connection;
using rabbitmq::Link;

namespace {

constexpr std::string_view kReplyTo = "replyto";
constexpr std::string_view kFirstDeathQueue = "x-first-death-queue";
constexpr amqp_channel_t kChannel = 1;
constexpr size_t kShortTextBytesMax = 255;

amqp_bytes_t Bytes(std::string_view text) { return {text.size(), const_cast<char*>(text.data())}; }
std::string_view View(const amqp_bytes_t& bytes) {
  return {static_cast<const char*>(bytes.bytes), bytes.len};
}

// A message with its memory.
struct Received {
  explicit Received(const amqp_message_t& given) : message(given) {}
  ~Received() { amqp_destroy_message(&message); }
  Received(const Received&) = delete;
  Received& operator=(const Received&) = delete;

  amqp_message_t message;
  std::string routing_key;
  std::vector<events::Event> structured;
};

Result<std::shared_ptr<Received>> ReadMessage(Connection* connection, amqp_channel_t channel) {
  amqp_message_t message;
  LEAT_TRY(connection->Check(amqp_read_message(connection->state(), channel, &message, 0),
                             "reading a message"));
  return std::make_shared<Received>(message);
}

std::string_view Property(const amqp_basic_properties_t& properties, amqp_flags_t flag,
                          const amqp_bytes_t& text) {
  return (properties._flags & flag) != 0 ? View(text) : std::string_view();
}

// What AMQP's own properties say that no header does.
void TakeProperties(const amqp_basic_properties_t& properties, events::EventView* event) {
  const auto correlation =
      Property(properties, AMQP_BASIC_CORRELATION_ID_FLAG, properties.correlation_id);
  if (event->correlationid.empty()) event->correlationid = correlation;
  const auto reply_to = Property(properties, AMQP_BASIC_REPLY_TO_FLAG, properties.reply_to);
  const bool known = std::any_of(event->extensions.begin(), event->extensions.end(),
                                 [](const auto& one) { return one.first == kReplyTo; });
  if (!reply_to.empty() && !known) event->extensions.emplace_back(kReplyTo, reply_to);
}

Delivery DeliveryOf(const std::shared_ptr<Received>& received) {
  Delivery delivery;
  const amqp_basic_properties_t& properties = received->message.properties;
  const std::string_view body = View(received->message.body);
  auto status = rabbitmq::ReadEvent(properties, body, &delivery.event, &received->structured);
  if (status) {
    TakeProperties(properties, &delivery.event);
    status = events::CheckLimits(delivery.event);
  }
  if (!status) {
    delivery.event = {};
    delivery.event.data = body;
    delivery.problem = status.error().Text();
  }
  for (int i = 0; i < properties.headers.num_entries; ++i) {
    const auto& entry = properties.headers.entries[i];
    if (View(entry.key) == kFirstDeathQueue && entry.value.kind == AMQP_FIELD_KIND_UTF8) {
      delivery.queue_died_in = View(entry.value.value.bytes);
    }
  }
  if ((properties._flags & AMQP_BASIC_PRIORITY_FLAG) != 0) delivery.priority = properties.priority;
  delivery.routing_key = received->routing_key;
  delivery.pin = received;
  return delivery;
}

Status DeclareExchange(Connection* connection, const std::string& exchange) {
  amqp_exchange_declare(connection->state(), kChannel, Bytes(exchange), amqp_cstring_bytes("topic"),
                        0, 1, 0, 0, amqp_empty_table);
  return connection->Reply("exchange " + exchange);
}

Status CheckQueue(const QueueOptions& queue) {
  const auto too_long = [](std::string_view text) { return text.size() > kShortTextBytesMax; };
  if (queue.name.empty() || too_long(queue.name)) {
    return Invalid("queue \"" + queue.name.substr(0, 64) + "\": is not a name", "1 to 255 bytes");
  }
  if (std::any_of(queue.bindings.begin(), queue.bindings.end(), too_long)) {
    return Invalid("queue " + queue.name + ": a pattern is longer than 255 bytes");
  }
  if (queue.prefetch == 0) return Invalid("queue " + queue.name + ": prefetch 0", "at least 1");
  if (queue.message_ttl.count() < 0 || queue.message_ttl.count() > UINT32_MAX) {
    return Invalid("queue " + queue.name + ": message_ttl is out of range");
  }
  return {};
}

}  // namespace

// ---- taking

class QueueConsumer::Impl final : public Link {
 public:
  Impl(const RabbitMqOptions& options, QueueOptions queue)
      : Link(kept_, queue.name), kept_(options), queue_(std::move(queue)) {
    Start();
  }
  ~Impl() override { Stop(); }

  Status WaitReady() const { return WaitConnected(kept_.timeout); }

  Result<std::optional<Delivery>> Take(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    arrived_.wait_for(lock, timeout, [&] { return !queued_.empty(); });
    if (queued_.empty()) {
      lock.unlock();
      LEAT_TRY(status());
      return std::nullopt;
    }
    std::optional<Delivery> delivery = std::move(queued_.front());
    queued_.pop_front();
    return delivery;
  }
  Status Settle(const Delivery& delivery, bool done, bool requeue) {
    {
      std::lock_guard lock(mutex_);
      if (delivery.connection != connection_) {
        return Fail(
            ErrorClass::kUnavailable,
            "rabbitmq: the connection that brought a message of " + queue_.name + " is lost",
            "it comes again");
      }
    }
    Post([this, tag = delivery.tag, at = delivery.connection, done,
          requeue](Connection* connection) -> Status {
      if (at != connection_) return {};  // only this thread moves it
      return connection->Check(
          done ? amqp_basic_ack(connection->state(), kChannel, tag, 0)
               : amqp_basic_nack(connection->state(), kChannel, tag, 0, requeue ? 1 : 0),
          "acknowledging");
    });
    return {};
  }

 private:
  Status OnConnected(Connection* connection) override {
    LEAT_TRY(connection->OpenChannel(kChannel));
    amqp_basic_qos(connection->state(), kChannel, 0, queue_.prefetch, 0);
    LEAT_TRY(connection->Reply("prefetch"));
    LEAT_TRY(Declare(connection));
    if (!queue_.bindings.empty()) LEAT_TRY(DeclareExchange(connection, kept_.exchange));
    for (const std::string& pattern : queue_.bindings) {
      amqp_queue_bind(connection->state(), kChannel, Bytes(queue_.name), Bytes(kept_.exchange),
                      Bytes(pattern), amqp_empty_table);
      LEAT_TRY(connection->Reply("binding " + queue_.name));
    }
    amqp_basic_consume(connection->state(), kChannel, Bytes(queue_.name), amqp_empty_bytes, 0, 0, 0,
                       amqp_empty_table);
    LEAT_TRY(connection->Reply("consuming " + queue_.name));
    std::lock_guard lock(mutex_);
    ++connection_;
    return {};
  }
  Status Declare(Connection* connection) {
    std::vector<amqp_table_entry_t> arguments;
    const auto add = [&](const char* name, uint8_t kind) -> amqp_field_value_t& {
      amqp_table_entry_t& entry = arguments.emplace_back();
      entry.key = amqp_cstring_bytes(name);
      entry.value.kind = kind;
      return entry.value;
    };
    if (queue_.priority_max > 0) {
      add("x-max-priority", AMQP_FIELD_KIND_I32).value.i32 = queue_.priority_max;
    }
    if (queue_.message_ttl.count() > 0) {
      add("x-message-ttl", AMQP_FIELD_KIND_I64).value.i64 = queue_.message_ttl.count();
    }
    if (queue_.dead_letter_exchange) {
      add("x-dead-letter-exchange", AMQP_FIELD_KIND_UTF8).value.bytes =
          Bytes(*queue_.dead_letter_exchange);
    }
    if (queue_.dead_letter_key) {
      add("x-dead-letter-routing-key", AMQP_FIELD_KIND_UTF8).value.bytes =
          Bytes(*queue_.dead_letter_key);
    }
    amqp_queue_declare(connection->state(), kChannel, Bytes(queue_.name), 0, 1, 0, 0,
                       {static_cast<int>(arguments.size()), arguments.data()});
    auto declared = connection->Reply("declaring " + queue_.name);
    if (!declared && declared.error().error_class == ErrorClass::kConflict) {
      return Fail(ErrorClass::kConflict, declared.error().message,
                  "declare it as it is there, or delete it if nobody needs it");
    }
    return declared;
  }
  void OnLost(const Error&) override {
    std::lock_guard lock(mutex_);
    ++connection_;
    queued_.clear();  // they come again
  }
  Status OnMethod(Connection* connection, const amqp_frame_t& frame) override {
    const auto& method = frame.payload.method;
    if (method.id == AMQP_BASIC_CANCEL_METHOD) {
      return Fail(ErrorClass::kUnavailable, "queue " + queue_.name + " was deleted");
    }
    if (method.id != AMQP_BASIC_DELIVER_METHOD) return {};
    const auto* deliver = static_cast<const amqp_basic_deliver_t*>(method.decoded);
    const uint64_t tag = deliver->delivery_tag;
    const bool redelivered = deliver->redelivered != 0;
    std::string key(View(deliver->routing_key));
    LEAT_ASSIGN(const auto received, ReadMessage(connection, frame.channel));
    received->routing_key = std::move(key);
    Delivery delivery = DeliveryOf(received);
    delivery.tag = tag;
    delivery.redelivered = redelivered;
    {
      std::lock_guard lock(mutex_);
      delivery.connection = connection_;
      queued_.push_back(std::move(delivery));  // bounded by the prefetch
    }
    arrived_.notify_one();
    return {};
  }

  const RabbitMqOptions kept_;
  const QueueOptions queue_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Delivery> queued_;  // guarded by mutex_
  uint64_t connection_ = 0;      // written by the thread alone; guarded by mutex_
};

QueueConsumer::QueueConsumer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
QueueConsumer::~QueueConsumer() = default;

Result<std::unique_ptr<QueueConsumer>> QueueConsumer::Open(const RabbitMqOptions& options,
                                                           const QueueOptions& queue) {
  LEAT_TRY(CheckQueue(queue));
  auto impl = std::make_unique<Impl>(options, queue);
  LEAT_TRY(impl->WaitReady());
  return std::unique_ptr<QueueConsumer>(new QueueConsumer(std::move(impl)));
}

Result<std::optional<Delivery>> QueueConsumer::Take(std::chrono::milliseconds timeout) {
  return impl_->Take(timeout);
}
Status QueueConsumer::Ack(const Delivery& delivery) { return impl_->Settle(delivery, true, false); }
Status QueueConsumer::Nack(const Delivery& delivery, bool requeue) {
  return impl_->Settle(delivery, false, requeue);
}

// ---- sending

class QueueProducer::Impl final : public Link {
 public:
  explicit Impl(const RabbitMqOptions& options) : Link(kept_, "queues"), kept_(options) { Start(); }
  ~Impl() override { Stop(); }

  Status WaitReady() const { return WaitConnected(kept_.timeout); }

  const std::string& exchange() const { return kept_.exchange; }
  Status Send(const std::string& exchange, std::string_view key, const events::Event& event,
              const SendOptions& how) {
    LEAT_TRY(rabbitmq::CheckMessage(event.view()));
    if (key.empty() || key.size() > kShortTextBytesMax) {
      return Invalid("\"" + std::string(key.substr(0, 64)) + "\" is neither queue nor routing key",
                     "1 to 255 bytes");
    }
    if (how.ttl.count() < 0 || how.ttl.count() > UINT32_MAX) return Invalid("ttl: is out of range");
    const auto sending = std::make_shared<Sending>();
    sending->exchange = exchange;
    sending->key = key;
    sending->event = event;
    sending->how = how;
    const auto deadline = std::chrono::steady_clock::now() + kept_.confirm_timeout;
    std::unique_lock lock(mutex_);
    changed_.wait_until(lock, deadline, [&] { return under_way_ < kQueuePublishesMax; });
    ++under_way_;
    waiting_.push_back(sending);
    lock.unlock();
    Post([this](Connection* connection) { return SendWaiting(connection); });
    lock.lock();
    changed_.wait_until(lock, deadline, [&] { return sending->outcome.has_value(); });
    --under_way_;
    std::erase(waiting_, sending);
    changed_.notify_all();
    if (sending->outcome) return *sending->outcome;
    const std::string alarm = blocked_;
    lock.unlock();
    const auto connected = status();
    return Fail(ErrorClass::kUnavailable,
                "rabbitmq: no confirm within " + std::to_string(kept_.confirm_timeout.count()) +
                    " ms" +
                    (!alarm.empty() ? ": the broker has an alarm: " + alarm
                     : connected    ? ""
                                    : ": " + connected.error().message),
                "publish again");
  }

 private:
  struct Sending {
    std::string exchange;
    std::string key;
    events::Event event;
    SendOptions how;
    std::optional<Status> outcome;  // guarded by mutex_
    std::optional<Error> returned;  // of the thread: the broker's word before it confirms
  };

  Status OnConnected(Connection* connection) override {
    LEAT_TRY(connection->OpenChannel(kChannel));
    amqp_confirm_select(connection->state(), kChannel);
    LEAT_TRY(connection->Reply("asking for confirms"));
    LEAT_TRY(DeclareExchange(connection, kept_.exchange));
    next_tag_ = 1;
    std::lock_guard lock(mutex_);
    blocked_.clear();
    return {};
  }
  Status OnServing(Connection* connection) override { return SendWaiting(connection); }
  void OnLost(const Error& error) override {
    std::lock_guard lock(mutex_);
    // Nobody knows what became of these. What was not sent yet is sent when the broker is back.
    for (const auto& [tag, sending] : open_) sending->outcome = std::unexpected(error);
    open_.clear();
    changed_.notify_all();
  }

  Status SendWaiting(Connection* connection) {
    for (;;) {
      std::shared_ptr<Sending> next;
      {
        std::lock_guard lock(mutex_);
        if (waiting_.empty() || !blocked_.empty()) return {};
        next = std::move(waiting_.front());
        waiting_.pop_front();
      }
      const uint64_t tag = next_tag_++;
      open_.emplace(tag, next);
      LEAT_TRY(SendOne(connection, tag, *next));
    }
  }
  Status SendOne(Connection* connection, uint64_t tag, const Sending& sending) {
    const events::EventView& event = sending.event.view();
    amqp_basic_properties_t properties{};
    rabbitmq::EventHeaders headers;
    headers.Set(event, &properties);
    const auto set = [&](amqp_flags_t flag, amqp_bytes_t* property, std::string_view text) {
      if (text.empty() || text.size() > kShortTextBytesMax) return;  // the header has it
      properties._flags |= flag;
      *property = Bytes(text);
    };
    const std::string message_id = std::to_string(tag);
    const std::string expiration = std::to_string(sending.how.ttl.count());
    set(AMQP_BASIC_MESSAGE_ID_FLAG, &properties.message_id, message_id);
    set(AMQP_BASIC_CORRELATION_ID_FLAG, &properties.correlation_id, event.correlationid);
    for (const auto& [name, text] : event.extensions) {
      if (name == kReplyTo) set(AMQP_BASIC_REPLY_TO_FLAG, &properties.reply_to, text);
    }
    if (sending.how.ttl.count() > 0) {
      set(AMQP_BASIC_EXPIRATION_FLAG, &properties.expiration, expiration);
    }
    properties._flags |= AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_PRIORITY_FLAG;
    properties.delivery_mode = AMQP_DELIVERY_PERSISTENT;
    properties.priority = sending.how.priority;
    return connection->Check(
        amqp_basic_publish(connection->state(), kChannel, Bytes(sending.exchange),
                           Bytes(sending.key), 1, 0, &properties, Bytes(event.data)),
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
        const std::string id(View(message->message.properties.message_id));
        for (auto& [tag, sending] : open_) {
          if (std::to_string(tag) != id) continue;
          sending->returned =
              Error{ErrorClass::kNotFound,
                    sending->exchange.empty() ? "there is no queue " + sending->key
                                              : "no queue is bound for " + sending->key,
                    "declare it first"};
        }
        break;
      }
      case AMQP_CONNECTION_BLOCKED_METHOD: {
        const auto* blocked = static_cast<const amqp_connection_blocked_t*>(method.decoded);
        std::lock_guard lock(mutex_);
        blocked_ = std::string(View(blocked->reason));
        core::LogWarning("rabbitmq", "the broker has an alarm, nothing is published: " + blocked_);
        break;
      }
      case AMQP_CONNECTION_UNBLOCKED_METHOD: {
        std::lock_guard lock(mutex_);
        blocked_.clear();
        break;
      }
      default:
        break;
    }
    return SendWaiting(connection);
  }
  void Confirmed(uint64_t tag, bool multiple, const Status& status) {
    std::lock_guard lock(mutex_);
    const auto begin = multiple ? open_.begin() : open_.find(tag);
    if (begin == open_.end()) return;  // no tag of ours
    const auto end = open_.upper_bound(tag);
    for (auto one = begin; one != end; ++one) {
      Sending& sending = *one->second;
      sending.outcome = sending.returned ? std::unexpected(*sending.returned) : status;
    }
    open_.erase(begin, end);
    changed_.notify_all();
  }

  const RabbitMqOptions kept_;
  // Of the thread.
  uint64_t next_tag_ = 1;
  std::map<uint64_t, std::shared_ptr<Sending>> open_;  // by delivery tag
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Sending>> waiting_;  // guarded by mutex_
  size_t under_way_ = 0;                          // guarded by mutex_
  std::string blocked_;                           // why, while it is; guarded by mutex_
};

QueueProducer::QueueProducer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
QueueProducer::~QueueProducer() = default;

Result<std::unique_ptr<QueueProducer>> QueueProducer::Open(const RabbitMqOptions& options) {
  auto impl = std::make_unique<Impl>(options);
  LEAT_TRY(impl->WaitReady());
  return std::unique_ptr<QueueProducer>(new QueueProducer(std::move(impl)));
}

Status QueueProducer::SendTo(std::string_view queue, const events::Event& event,
                             const SendOptions& how) {
  return impl_->Send({}, queue, event, how);
}
Status QueueProducer::Publish(std::string_view routing_key, const events::Event& event,
                              const SendOptions& how) {
  return impl_->Send(impl_->exchange(), routing_key, event, how);
}

}  // namespace leat::bus
