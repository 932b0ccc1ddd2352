#include "runtime/request.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "bus/partitioner.h"
#include "core/log.h"
#include "events/registry.h"
#include "runtime/inbox.h"
#include "runtime/retry.h"
#include "runtime/v1/runtime.pb.h"

namespace leat::runtime {
namespace {

using Time = std::chrono::steady_clock::time_point;

constexpr size_t kInstanceBytesMax = 64;
constexpr size_t kFailureBytesMax = 4096;  // of a failure's message and of its remedy
constexpr size_t kOutboxItemsMax = 8192;   // then whoever puts in waits, or is refused
constexpr size_t kOutboxBytesMax = 64u << 20;  // the same
constexpr size_t kOutboxBatchMax = 512;    // published at a time
constexpr size_t kTopicsKnownMax = 10'000;

Time Now() { return std::chrono::steady_clock::now(); }

// As a Protobuf string takes it: what is no UTF-8 becomes '?'.
std::string Utf8(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size() && out.size() < kFailureBytesMax;) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t size = lead < 0x80                    ? 1
                        : lead >= 0xc2 && lead <= 0xdf ? 2
                        : lead >= 0xe0 && lead <= 0xef ? 3
                        : lead >= 0xf0 && lead <= 0xf4 ? 4
                                                       : 0;
    bool good = size > 0 && i + size <= text.size();
    for (size_t j = 1; good && j < size; ++j) {
      const auto next = static_cast<unsigned char>(text[i + j]);
      // Overlong forms, surrogates, and what is beyond the last character.
      const unsigned char low = j > 1 ? 0x80 : lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
      const unsigned char high = j > 1 ? 0xbf : lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
      good = next >= low && next <= high;
    }
    if (good) {
      out += text.substr(i, size);
      i += size;
    } else {
      out.push_back('?');
      ++i;
    }
  }
  return out;
}

ErrorClass ErrorClassOf(std::string_view name) {
  for (const auto one : {ErrorClass::kInvalid, ErrorClass::kNotFound, ErrorClass::kConflict,
                         ErrorClass::kUnavailable, ErrorClass::kExhausted, ErrorClass::kCorrupt,
                         ErrorClass::kUnsupported}) {
    if (name == core::ErrorClassName(one)) return one;
  }
  return ErrorClass::kInternal;
}

std::string_view ExtensionOf(const events::EventView& event, std::string_view name) {
  for (const auto& [known, value] : event.extensions) {
    if (known == name) return value;
  }
  return {};
}

int64_t Micros(std::chrono::milliseconds time) { return time.count() * 1000; }

size_t BytesOf(const events::EventView& event) {
  size_t bytes = event.data.size();
  for (const auto& [name, value] : event.extensions) bytes += name.size() + value.size();
  return bytes;
}

// Publishes on a thread of its own: what is put in while it publishes is its next batch. Publishes
// each item once; to try again is for whoever put it in.
class Outbox {
 public:
  struct Item {
    std::string topic;
    std::optional<uint32_t> partition;  // nothing: by the event's key
    std::shared_ptr<const events::Event> event;
    std::function<void(Status)>
        done;  // called on the outbox's thread, or when it is put in too late
  };

  // With `checks_owner` nothing is published to a topic that has one. With `waits` who puts in waits
  // for room, else it is refused.
  Outbox(bus::Transport* transport, bool checks_owner, bool waits)
      : transport_(transport), checks_owner_(checks_owner), waits_(waits) {
    thread_ = std::jthread([this] { Run(); });
  }
  ~Outbox() { Stop(); }

  void Put(Item item) {
    bool stopped;
    {
      std::unique_lock lock(mutex_);
      const auto has_room = [&] {
        return (items_.size() < kOutboxItemsMax && bytes_ < kOutboxBytesMax) || stopped_;
      };
      if (waits_) changed_.wait(lock, has_room);
      stopped = stopped_;
      if (!stopped && has_room()) {
        bytes_ += BytesOf(item.event->view());
        items_.push_back(std::move(item));
        item.done = nullptr;
      }
    }
    changed_.notify_all();
    if (!item.done) return;
    item.done(stopped ? Fail(ErrorClass::kUnavailable, "it was stopped")
                      : Fail(ErrorClass::kUnavailable,
                             "the broker does not take what is published fast enough"));
  }
  // Publishes what is in it, and ends.
  void Stop() {
    {
      std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
  }
  // Forgets what is in it. What is being published goes on.
  void Clear() {
    {
      std::lock_guard lock(mutex_);
      items_.clear();
      bytes_ = 0;
    }
    changed_.notify_all();
  }

 private:
  void Run() {
    for (;;) {
      std::vector<Item> batch;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return !items_.empty() || stopped_; });
        if (items_.empty()) return;
        while (!items_.empty() && batch.size() < kOutboxBatchMax) {
          batch.push_back(std::move(items_.front()));
          bytes_ -= BytesOf(batch.back().event->view());
          items_.pop_front();
        }
      }
      changed_.notify_all();
      std::map<std::pair<std::string, uint32_t>, std::vector<Item*>> parts;
      for (Item& item : batch) {
        if (auto partition = PartitionFor(item); partition) {
          parts[{item.topic, *partition}].push_back(&item);
        } else {
          item.done(std::unexpected(partition.error()));
        }
      }
      for (const auto& [to, items] : parts) Publish(to.first, to.second, items);
    }
  }

  void Publish(const std::string& topic, uint32_t partition, const std::vector<Item*>& items) {
    std::vector<events::Event> events;
    for (const Item* item : items) events.push_back(*item->event);
    const auto status = transport_->PublishTo(topic, partition, events);
    if (!status && status.error().error_class == ErrorClass::kNotFound) known_.erase(topic);
    // One that is refused must not take others with it.
    const bool one_by_one = !status && !status.error().Retryable() && items.size() > 1;
    for (Item* item : items) {
      item->done(one_by_one ? transport_->PublishTo(topic, partition, {*item->event}) : status);
    }
  }

  Result<uint32_t> PartitionFor(const Item& item) {
    if (!checks_owner_ && item.partition) return *item.partition;
    auto found = known_.find(item.topic);
    if (found == known_.end()) {
      LEAT_ASSIGN(const auto topics, transport_->Topics());
      if (known_.size() >= kTopicsKnownMax) known_.clear();
      for (const bus::TopicInfo& topic : topics) {
        if (topic.name == item.topic) found = known_.emplace(topic.name, topic).first;
      }
    }
    if (found == known_.end()) {
      return Fail(ErrorClass::kNotFound, "there is no topic " + item.topic, "see `leat topics`");
    }
    const bus::TopicInfo& topic = found->second;
    if (!topic.owner.empty()) {
      return Fail(ErrorClass::kConflict,
                  "topic " + topic.name + " is written only by " + topic.owner,
                  "ask on a topic that takes requests");
    }
    if (!item.partition) {
      return bus::PartitionOf(bus::KeyOf(item.event->view()), topic.partitions);
    }
    if (*item.partition < topic.partitions) return *item.partition;
    return Fail(ErrorClass::kNotFound,
                "topic " + topic.name + " has no partition " + std::to_string(*item.partition),
                "it has " + std::to_string(topic.partitions));
  }

  bus::Transport* const transport_;
  const bool checks_owner_;
  const bool waits_;
  std::map<std::string, bus::TopicInfo> known_;  // of the thread
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item> items_;  // guarded by mutex_
  size_t bytes_ = 0;        // of their events; guarded by mutex_
  bool stopped_ = false;    // guarded by mutex_
  std::jthread thread_;
};

// The bounds of a retention may have taken what a subscription stands at.
bool IsGone(const Status& polled) {
  return !polled && polled.error().error_class == ErrorClass::kNotFound;
}

}  // namespace

Status CheckInstanceName(std::string_view instance) {
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const bool good = !instance.empty() && instance.size() <= kInstanceBytesMax &&
                    is_letter(instance[0]) &&
                    std::all_of(instance.begin(), instance.end(), [&](char c) {
                      return is_letter(c) || (c >= '0' && c <= '9') || c == '-' || c == '_';
                    });
  if (good) return {};
  return Invalid(
      "instance: \"" + std::string(instance.substr(0, kInstanceBytesMax)) + "\" is not a name",
      "1 to " + std::to_string(kInstanceBytesMax) +
          " letters, digits, '-' and '_', of which the first is a letter");
}

// ---- asking

class Requester::Impl {
 public:
  Impl(bus::Transport* transport, std::string_view instance, const core::Clock& clock)
      : transport_(transport),
        clock_(clock),
        reply_topic_(std::string(kRepliesPrefix) + std::string(instance)) {}
  ~Impl() {
    Stop();
    thread_ = {};  // joined before the outbox, whose thread calls into this object, too
    outbox_.Stop();
  }

  Status Open() {
    LEAT_TRY(transport_->CreateTopic(reply_topic_, 1, {.retention = kRepliesRetention}));
    LEAT_ASSIGN(const auto end, transport_->End(reply_topic_, 0));
    LEAT_ASSIGN(subscription_, transport_->Subscribe(reply_topic_, 0, end.offset));
    thread_ = std::jthread([this](const std::stop_token& stop) { Read(stop); });
    return {};
  }
  void Ask(const std::string& topic, const events::Event& request, const AskOptions& options,
           Answer done);
  void Stop() {
    FailAll(Fail(ErrorClass::kUnavailable, "requests: this process is stopping",
                 "ask again when it is back"));
    outbox_.Clear();
    thread_.request_stop();
    if (subscription_ != nullptr) subscription_->Wake();
  }
  const std::string& reply_topic() const { return reply_topic_; }

 private:
  struct Pending {
    std::string topic;
    std::optional<uint32_t> partition;
    std::shared_ptr<const events::Event> request;
    Answer done;
    std::chrono::milliseconds timeout;
    Time deadline;
    Time repeat_at;
    std::chrono::milliseconds pause = kRepeatPauseMin;
    std::chrono::milliseconds refused_pause = kRefusedPause;
    bool in_outbox = true;
    bool until_available = false;
    std::string problem;  // of the newest publish
    std::string refusal;  // the newest reply, where that is not the last word
  };

  void Publish(const std::string& id, const std::string& topic, std::optional<uint32_t> partition,
               std::shared_ptr<const events::Event> request);
  void Read(const std::stop_token& stop);
  void Take(const bus::Message& message);
  void Tick();
  void Finish(const std::string& id, Result<events::Event> answer);
  // Whether a request goes on in spite of its reply.
  bool AskAgain(const std::string& id, const Error& error);
  // From now on.
  void FailAll(const Status& status);

  bus::Transport* const transport_;
  const core::Clock& clock_;
  const std::string reply_topic_;
  std::unique_ptr<bus::Subscription> subscription_;
  std::mutex mutex_;
  std::map<std::string, Pending, std::less<>> pending_;  // by id; guarded by mutex_
  size_t pending_bytes_ = 0;                             // of their data; guarded by mutex_
  Status stopped_;                                       // guarded by mutex_
  Time next_tick_;                                       // of the reader's thread
  Outbox outbox_{transport_, true, false};
  std::jthread thread_;
};

void Requester::Impl::Ask(const std::string& topic, const events::Event& request,
                          const AskOptions& options, Answer done) {
  if (options.timeout.count() <= 0 || options.timeout > kRequestTimeoutMax) {
    return done(
        Invalid("timeout: " + std::to_string(options.timeout.count()) + " ms is out of range",
                "1 to " + std::to_string(kRequestTimeoutMax.count())));
  }
  events::EventView view = request.view();
  const int64_t now_us = clock_.NowUs();
  const std::string id = events::EventId(view).empty() ? core::NewUuid() : events::EventId(view);
  const std::string expiry = core::FormatTime(now_us + Micros(options.timeout));
  view.id = id;
  if (view.source.empty()) view.source = reply_topic_;
  if (view.time_us == 0) view.time_us = now_us;
  std::erase_if(view.extensions, [](const auto& one) {
    return one.first == kReplyToAttribute || one.first == kExpiryTimeAttribute;
  });
  view.extensions.emplace_back(kReplyToAttribute, reply_topic_);
  view.extensions.emplace_back(kExpiryTimeAttribute, expiry);
  if (auto status = events::CheckLimits(view); !status) {
    return done(std::unexpected(status.error().WithContext("request")));
  }
  const auto event = std::make_shared<const events::Event>(view);
  Pending pending;
  const size_t size = BytesOf(view);
  pending.topic = topic;
  pending.partition = options.partition;
  pending.request = event;
  pending.done = done;
  pending.timeout = options.timeout;
  pending.until_available = options.until_available;
  pending.deadline = Now() + options.timeout;
  pending.repeat_at = Now() + kRepeatPauseMin;
  {
    auto status = [&]() -> Status {
      std::lock_guard lock(mutex_);
      LEAT_TRY(stopped_);
      if (pending_.size() >= kRequestsInFlightMax) {
        return Fail(ErrorClass::kExhausted,
                    std::to_string(kRequestsInFlightMax) + " requests are under way already",
                    "ask again in a moment");
      }
      if (pending_bytes_ + size > kRequestsInFlightBytesMax) {
        return Fail(ErrorClass::kExhausted,
                    std::to_string(kRequestsInFlightBytesMax >> 20) +
                        " MiB of requests are under way already",
                    "ask again in a moment");
      }
      if (!pending_.emplace(id, std::move(pending)).second) {
        return Fail(ErrorClass::kConflict, "a request of id " + id + " is under way",
                    "give every request an id of its own, or none");
      }
      pending_bytes_ += size;
      return {};
    }();
    if (!status) return done(std::unexpected(status.error()));
  }
  Publish(id, topic, options.partition, event);
}

void Requester::Impl::Publish(const std::string& id, const std::string& topic,
                              std::optional<uint32_t> partition,
                              std::shared_ptr<const events::Event> request) {
  outbox_.Put({topic, partition, std::move(request), [this, id](const Status& status) {
                 if (!status && !status.error().Retryable()) {
                   return Finish(id, std::unexpected(status.error()));
                 }
                 std::lock_guard lock(mutex_);
                 const auto found = pending_.find(id);
                 if (found == pending_.end()) return;
                 found->second.in_outbox = false;
                 found->second.problem = status ? "" : status.error().Text();
               }});
}

void Requester::Impl::Finish(const std::string& id, Result<events::Event> answer) {
  Answer done;
  {
    std::lock_guard lock(mutex_);
    const auto found = pending_.find(id);
    if (found == pending_.end()) return;
    done = std::move(found->second.done);
    pending_bytes_ -= BytesOf(found->second.request->view());
    pending_.erase(found);
  }
  done(std::move(answer));
}

void Requester::Impl::FailAll(const Status& status) {
  std::map<std::string, Pending, std::less<>> pending;
  {
    std::lock_guard lock(mutex_);
    if (stopped_) stopped_ = status;
    pending.swap(pending_);
    pending_bytes_ = 0;
  }
  for (auto& [id, one] : pending) one.done(std::unexpected(status.error()));
}

void Requester::Impl::Read(const std::stop_token& stop) {
  bus::MessageBatch batch;
  bus::PollLimits limits;
  limits.timeout = kDeadlineTick;
  std::mutex mutex;
  std::condition_variable_any stopped;
  bool away = false;
  while (!stop.stop_requested()) {
    auto polled = subscription_->Poll(limits, &batch);
    if (IsGone(polled)) {
      // Nobody waits for what is older than the retention.
      if (const auto end = transport_->End(reply_topic_, 0); end) subscription_->Seek(end->offset);
    }
    if (!polled && !polled.error().Retryable() && !IsGone(polled)) {
      core::LogError(reply_topic_, "no replies are read any more: " + polled.error().Text());
      return FailAll(polled);
    }
    if (polled) {
      for (const bus::Message& message : batch.messages) Take(message);
    } else {
      if (!away) core::LogInfo(reply_topic_, "tried again: " + polled.error().Text());
      std::unique_lock lock(mutex);
      stopped.wait_for(lock, stop, kDeadlineTick, [] { return false; });
    }
    away = !polled;
    Tick();
  }
}

void Requester::Impl::Take(const bus::Message& message) {
  const events::EventView& reply = message.event;
  // What is no event, of no request, or of one that nobody waits for any more: not for us.
  if (!message.problem.empty() || reply.correlationid.empty()) {
    core::Log(core::LogLevel::kDebug, reply_topic_,
              "offset " + std::to_string(message.offset) + " is no reply");
    return;
  }
  const std::string id(reply.correlationid);
  if (reply.data.size() > kReplyBytesMax) {
    return Finish(id, Fail(ErrorClass::kExhausted,
                           "the reply is " + std::to_string(reply.data.size()) + " bytes long",
                           "at most " + std::to_string(kReplyBytesMax) + ": ask for less"));
  }
  if (reply.type != events::kRequestFailed) return Finish(id, events::Event(reply));
  v1::RequestFailed failed;
  if (!failed.ParseFromArray(reply.data.data(), static_cast<int>(reply.data.size()))) {
    return Finish(id,
                  Fail(ErrorClass::kInternal, "the request failed, and its error cannot be read"));
  }
  const Error error{ErrorClassOf(failed.error_class()), failed.message(), failed.remedy()};
  if (!AskAgain(id, error)) Finish(id, std::unexpected(error));
}

bool Requester::Impl::AskAgain(const std::string& id, const Error& error) {
  if (!error.Retryable()) return false;
  std::lock_guard lock(mutex_);
  const auto found = pending_.find(id);
  if (found == pending_.end() || !found->second.until_available) return false;
  found->second.refusal = error.Text();
  found->second.pause = kRepeatPauseMin;  // somebody is there
  found->second.repeat_at = Now() + found->second.refused_pause;
  found->second.refused_pause = std::min(2 * found->second.refused_pause, kRefusedPauseMax);
  return true;
}

void Requester::Impl::Tick() {
  const Time now = Now();
  if (now < next_tick_) return;
  next_tick_ = now + kDeadlineTick / 2;
  std::vector<Pending> late, again;
  {
    std::lock_guard lock(mutex_);
    for (auto one = pending_.begin(); one != pending_.end();) {
      Pending& pending = one->second;
      if (now >= pending.deadline) {
        pending_bytes_ -= BytesOf(pending.request->view());
        late.push_back(std::move(pending));
        one = pending_.erase(one);
        continue;
      }
      if (now >= pending.repeat_at && !pending.in_outbox) {
        pending.pause = std::min(2 * pending.pause, kRepeatPauseMax);
        pending.repeat_at = now + pending.pause;
        pending.in_outbox = true;
        Pending& copy = again.emplace_back();
        copy.topic = pending.topic;
        copy.partition = pending.partition;
        copy.request = pending.request;
      }
      ++one;
    }
  }
  for (Pending& pending : late) {
    const std::string& why = pending.problem.empty() ? pending.refusal : pending.problem;
    pending.done(Fail(ErrorClass::kUnavailable,
                      "no reply on topic " + pending.topic + " within " +
                          std::to_string(pending.timeout.count()) + " ms" +
                          (why.empty() ? "" : ": " + why),
                      "see whether the service that answers there runs, and ask again"));
  }
  for (Pending& pending : again) {
    Publish(std::string(pending.request->view().id), pending.topic, pending.partition,
            pending.request);
  }
}

Requester::Requester(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Requester::~Requester() = default;

Result<std::unique_ptr<Requester>> Requester::Open(bus::Transport* transport,
                                                   std::string_view instance,
                                                   const core::Clock& clock) {
  LEAT_TRY(CheckInstanceName(instance));
  auto impl = std::make_unique<Impl>(transport, instance, clock);
  LEAT_TRY(impl->Open());
  return std::unique_ptr<Requester>(new Requester(std::move(impl)));
}

Result<events::Event> Requester::Ask(const std::string& topic, const events::Event& request,
                                     const AskOptions& options) {
  struct Waiter {
    std::mutex mutex;
    std::condition_variable answered;
    std::optional<Result<events::Event>> answer;
  };
  const auto waiter = std::make_shared<Waiter>();
  AskAsync(topic, request, options, [waiter](Result<events::Event> answer) {
    std::lock_guard lock(waiter->mutex);
    waiter->answer.emplace(std::move(answer));
    waiter->answered.notify_one();
  });
  std::unique_lock lock(waiter->mutex);
  waiter->answered.wait(lock, [&] { return waiter->answer.has_value(); });
  return std::move(*waiter->answer);
}

void Requester::AskAsync(const std::string& topic, const events::Event& request,
                         const AskOptions& options, Answer done) {
  impl_->Ask(topic, request, options, std::move(done));
}

void Requester::Stop() { impl_->Stop(); }

const std::string& Requester::reply_topic() const { return impl_->reply_topic(); }

// ---- answering

class Responder::Impl {
 public:
  Impl(bus::Transport* transport, ResponderOptions options, Handler handler,
       const core::Clock& clock)
      : transport_(transport),
        options_(std::move(options)),
        handler_(std::move(handler)),
        clock_(clock) {}
  ~Impl() {
    reader_ = {};  // it puts in what the workers take out
    for (auto& worker : workers_) worker.request_stop();
    workers_.clear();
    outbox_.Stop();
  }

  Status Start() {
    LEAT_ASSIGN(const auto end, transport_->End(options_.topic, options_.partition));
    live_from_ = options_.from.value_or(end.offset);
    next_ = options_.from.value_or(end.offset - std::min(end.offset, options_.look_back));
    LEAT_ASSIGN(subscription_, transport_->Subscribe(options_.topic, options_.partition, next_));
    for (unsigned i = 0; i < std::max(options_.threads, 1U); ++i) {
      workers_.emplace_back([this](const std::stop_token& stop) { Work(stop); });
    }
    reader_ = std::jthread([this](const std::stop_token& stop) {
      auto status = Read(stop);
      if (status) return;
      core::LogError(options_.topic,
                     "requests are not answered any more: " + status.error().Text());
      std::lock_guard lock(mutex_);
      error_ = std::move(status);
    });
    return {};
  }
  Status error() const {
    std::lock_guard lock(mutex_);
    return error_;
  }

 private:
  struct Request {
    std::shared_ptr<const events::Event> event;
    std::string key;  // by which it is known
    std::string reply_to;
    int64_t expiry_us = 0;
  };
  // A request that was seen lately.
  struct Seen {
    std::shared_ptr<const events::Event> reply;  // null: it is being worked on
  };

  Status Read(const std::stop_token& stop);
  void Take(const events::EventView& view, uint64_t offset);
  void Work(const std::stop_token& stop);
  Result<events::Event> Handle(const events::EventView& request) const;
  void Reply(const Request& request, Result<events::Event> answer);
  void Send(const std::string& reply_to, std::shared_ptr<const events::Event> reply);
  Result<events::Event> Complete(const Request& request, const events::EventView& answer) const;
  events::Event Failure(const Request& request, const Error& error) const;

  bus::Transport* const transport_;
  const ResponderOptions options_;
  const Handler handler_;
  const core::Clock& clock_;
  std::unique_ptr<bus::Subscription> subscription_;
  uint64_t live_from_ = 0;  // what lies before it, somebody else may have answered
  uint64_t next_ = 0;       // of the reader's thread
  mutable std::mutex mutex_;
  std::condition_variable_any waiting_changed_;
  std::deque<Request> waiting_;                 // guarded by mutex_
  size_t waiting_bytes_ = 0;                    // of their data; guarded by mutex_
  std::unordered_map<std::string, Seen> seen_;  // guarded by mutex_
  std::deque<std::string> kept_;  // of seen_, with a reply, oldest first; guarded by mutex_
  size_t kept_bytes_ = 0;         // guarded by mutex_
  Status error_;                  // guarded by mutex_
  Outbox outbox_{transport_, false, true};
  std::vector<std::jthread> workers_;
  std::jthread reader_;
};

Status Responder::Impl::Read(const std::stop_token& stop) {
  std::stop_callback wake(stop, [&] { subscription_->Wake(); });
  bus::MessageBatch batch;
  while (!stop.stop_requested()) {
    const auto polled = PollWithRetry(stop, options_.topic, subscription_.get(), {}, &batch);
    if (stop.stop_requested()) return {};
    if (IsGone(polled)) {
      // Retention has taken it. Whoever still waits for an answer asks again, at the end.
      bus::PartitionEnd end;
      const auto asked = Retry(stop, options_.topic, [&]() -> Status {
        LEAT_ASSIGN(end, transport_->End(options_.topic, options_.partition));
        return {};
      });
      if (stop.stop_requested()) return {};
      LEAT_TRY(asked);
      core::LogInfo(options_.topic, "goes on at the end, offset " + std::to_string(end.offset) +
                                        ": " + polled.error().Text());
      subscription_->Seek(next_ = end.offset);
      continue;
    }
    LEAT_TRY(polled);
    for (const bus::Message& message : batch.messages) {
      if (message.offset < next_) continue;
      next_ = message.offset + 1;
      if (message.problem.empty()) {
        Take(message.event, message.offset);
        continue;
      }
      const auto reject = [&] {
        return SendToDeadLetters(transport_, options_.topic, options_.partition, message,
                                 std::string(message.problem));
      };
      const auto status = Retry(stop, options_.topic, reject);
      if (!status && stop.stop_requested()) return {};
      LEAT_TRY(status);
    }
  }
  return {};
}

void Responder::Impl::Take(const events::EventView& view, uint64_t offset) {
  const auto pass_over = [&](core::LogLevel level, const std::string& why) {
    core::Log(level, options_.topic,
              "request at offset " + std::to_string(offset) + " is passed over: " + why);
  };
  Request request;
  request.reply_to = ExtensionOf(view, kReplyToAttribute);
  const std::string id = events::EventId(view);
  if (request.reply_to.empty()) return pass_over(core::LogLevel::kDebug, "it has no replyto");
  // Nobody makes us write to a topic of somebody else's.
  if (!request.reply_to.starts_with(kRepliesPrefix) || !events::CheckTopicName(request.reply_to)) {
    return pass_over(core::LogLevel::kWarning,
                     "its replyto does not begin with " + std::string(kRepliesPrefix));
  }
  if (id.empty() || id.size() > events::kAttributeBytesMax) {
    return pass_over(core::LogLevel::kWarning, "it has no id, or too long a one");
  }
  const std::string_view expiry = ExtensionOf(view, kExpiryTimeAttribute);
  if (expiry.empty()) {
    if (offset < live_from_) {
      return pass_over(core::LogLevel::kDebug, "it is older than this and has no expirytime");
    }
    request.expiry_us = INT64_MAX;
  } else {
    const auto parsed = core::ParseTime(expiry);
    if (!parsed) return pass_over(core::LogLevel::kWarning, "its expirytime is not RFC 3339");
    request.expiry_us = *parsed;
  }
  if (request.expiry_us <= clock_.NowUs())
    return pass_over(core::LogLevel::kDebug, "it has expired");
  // Ids are unique among those that one asks: their replies go to one topic.
  request.key = request.reply_to + '\n' + std::string(view.source) + '\n' + id;
  std::shared_ptr<const events::Event> answered;
  bool refused = false;
  {
    std::lock_guard lock(mutex_);
    const auto seen = seen_.find(request.key);
    if (seen != seen_.end()) {
      if (seen->second.reply == nullptr) return;  // its reply will come
      answered = seen->second.reply;
    } else if (waiting_.size() >= options_.waiting_max ||
               waiting_bytes_ + BytesOf(view) > options_.waiting_bytes_max) {
      refused = true;
    } else {
      request.event = std::make_shared<const events::Event>(view);
      seen_[request.key];
      waiting_bytes_ += BytesOf(view);
      waiting_.push_back(std::move(request));
    }
  }
  if (answered != nullptr) return Send(request.reply_to, std::move(answered));
  if (!refused) return waiting_changed_.notify_one();
  request.event = std::make_shared<const events::Event>(view);
  const Error full{ErrorClass::kUnavailable,
                   "topic " + options_.topic + " has as many requests that wait for their turn as it takes",
                   "ask again in a moment"};
  Send(request.reply_to, std::make_shared<const events::Event>(Failure(request, full)));
}

void Responder::Impl::Work(const std::stop_token& stop) {
  for (;;) {
    Request request;
    {
      std::unique_lock lock(mutex_);
      waiting_changed_.wait(lock, stop, [&] { return !waiting_.empty(); });
      if (stop.stop_requested()) return;
      request = std::move(waiting_.front());
      waiting_.pop_front();
      waiting_bytes_ -= BytesOf(request.event->view());
      if (request.expiry_us <= clock_.NowUs()) {
        seen_.erase(request.key);
        continue;
      }
    }
    auto answer = Handle(request.event->view());
    if (answer) answer = Complete(request, answer->view());
    Reply(request, std::move(answer));
  }
}

Result<events::Event> Responder::Impl::Handle(const events::EventView& request) const {
  try {
    return handler_(request);
  } catch (const std::exception& error) {
    return Fail(ErrorClass::kInternal, std::string("unexpected: ") + error.what(),
                "please report it, with the request");
  }
}

void Responder::Impl::Reply(const Request& request, Result<events::Event> answer) {
  // What may be tried again is tried again when it is asked again.
  const bool keeps = answer || !answer.error().Retryable();
  const auto reply = std::make_shared<const events::Event>(
      answer ? std::move(*answer) : Failure(request, answer.error()));
  {
    std::lock_guard lock(mutex_);
    if (keeps) {
      seen_[request.key].reply = reply;
      kept_.push_back(request.key);
      kept_bytes_ += reply->view().data.size();
      while (kept_.size() > kRepliesKeptMax || kept_bytes_ > kRepliesKeptBytesMax) {
        const auto oldest = seen_.find(kept_.front());
        kept_bytes_ -= oldest->second.reply->view().data.size();
        seen_.erase(oldest);
        kept_.pop_front();
      }
    } else {
      seen_.erase(request.key);
    }
  }
  Send(request.reply_to, reply);
}

Result<events::Event> Responder::Impl::Complete(const Request& request,
                                                const events::EventView& answer) const {
  const events::EventView& asked = request.event->view();
  if (answer.data.size() > kReplyBytesMax) {
    return Fail(ErrorClass::kExhausted,
                "the reply is " + std::to_string(answer.data.size()) + " bytes long",
                "at most " + std::to_string(kReplyBytesMax) + ": ask for less");
  }
  const std::string asked_id = events::EventId(asked);
  const std::string id = answer.id.empty() ? core::NewUuid() : std::string(answer.id);
  events::EventView view = answer;
  view.id = id;
  if (view.source.empty()) view.source = options_.source;
  if (view.time_us == 0) view.time_us = clock_.NowUs();
  if (view.traceparent.empty()) view.traceparent = asked.traceparent;
  view.correlationid = asked_id;
  view.causationid = asked_id;
  if (auto status = events::CheckLimits(view); !status) {
    return Fail(ErrorClass::kInternal, "the reply cannot be sent: " + status.error().Text());
  }
  return events::Event(view);
}

events::Event Responder::Impl::Failure(const Request& request, const Error& error) const {
  v1::RequestFailed failed;
  failed.set_error_class(std::string(core::ErrorClassName(error.error_class)));
  failed.set_message(Utf8(error.message));
  failed.set_remedy(Utf8(error.remedy));
  const std::string data = failed.SerializeAsString();
  events::EventView view;
  view.type = events::kRequestFailed;
  view.data = data;
  auto completed = Complete(request, view);
  LEAT_ASSERT(completed.has_value());  // it is within the limits if its request is
  return std::move(*completed);
}

void Responder::Impl::Send(const std::string& reply_to,
                           std::shared_ptr<const events::Event> reply) {
  outbox_.Put({reply_to, 0, std::move(reply), [reply_to](const Status& status) {
                 // Nobody reads there any more, or it will be asked again.
                 if (!status)
                   core::LogInfo(reply_to, "a reply was not sent: " + status.error().Text());
               }});
}

Responder::Responder(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Responder::~Responder() = default;

Result<std::unique_ptr<Responder>> Responder::Start(bus::Transport* transport,
                                                    const ResponderOptions& options,
                                                    Handler handler, const core::Clock& clock) {
  auto impl = std::make_unique<Impl>(transport, options, std::move(handler), clock);
  LEAT_TRY(impl->Start());
  return std::unique_ptr<Responder>(new Responder(std::move(impl)));
}

Status Responder::error() const { return impl_->error(); }

}  // namespace leat::runtime
