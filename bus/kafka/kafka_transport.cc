#include "bus/kafka/kafka_transport.h"

#include <librdkafka/rdkafka.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <mutex>
#include <set>
#include <thread>
#include <tuple>

#include "bus/attributes.h"
#include "bus/group.h"
#include "bus/kafka/kafka_handle.h"
#include "bus/kafka/kafka_membership.h"
#include "bus/kafka/kafka_topics.h"
#include "bus/partitioner.h"
#include "core/log.h"

namespace leat::bus {

using kafka::Broken;
using kafka::ClassOf;
using kafka::Owned;

namespace {

constexpr std::string_view kComponent = "kafka";
constexpr std::string_view kHeaderPrefix = "ce_";
constexpr std::string_view kContentTypeHeader = "content-type";
// An event's data with its headers and Kafka's own overhead.
constexpr size_t kMessageBytesMax = events::kDataBytesMax + (1u << 20);
constexpr size_t kHeadersUsual = 12;  // more are taken, too
// Of what is fetched ahead of a reader; some of it is in its hands beside that.
constexpr size_t kAheadFetches = 4;
constexpr size_t kAheadMessages = 1024;
constexpr size_t kAheadBytesMax = 8u << 20;
constexpr size_t kAheadAfter = 2;  // full fetches in a row
constexpr auto kAheadPause = std::chrono::milliseconds(5);
constexpr auto kPollStep = std::chrono::milliseconds(100);
// It is the request that wakes, not its answer: a broker that is away holds up the others no longer.
constexpr auto kRefillTimeout = std::chrono::milliseconds(100);
constexpr auto kRetryPause = std::chrono::milliseconds(2);
// What waited when asking again is worth it; less is no queue that was full.
constexpr size_t kRefillMessages = 2 * kAheadMessages;
constexpr size_t kRefillBytes = 1u << 20;
constexpr auto kAskedAgain = std::chrono::milliseconds(50);
constexpr auto kOpenStep = std::chrono::milliseconds(500);
constexpr int kRefusalsMax = 2;
constexpr size_t kErrorTextMax = 512;
// Older ones repeat their nonce in SCRAM, which brokers from Kafka 4.0 on do not take.
constexpr int kScramWithKafka4 = 0x020601ff;
constexpr size_t kNameBytesMax = 249;  // Kafka's own limit
// What is older than its retention goes by segments: the newest one begins anew after a quarter of
// that time, at least this long, or at this size, which holds the largest message.
constexpr int64_t kSegmentsInRetention = 4;
constexpr int64_t kSegmentMsMin = 1000;
constexpr size_t kSegmentBytes = 2 * kMessageBytesMax;

// What we set where the user sets nothing else.
const std::pair<const char*, const char*> kCommonDefaults[] = {
    {"client.id", "leat"},
    {"socket.keepalive.enable", "true"},
    {"socket.nagle.disable", "true"},
    // A broker that was restarted is found again within a second, not within ten.
    {"reconnect.backoff.ms", "50"},
    {"reconnect.backoff.max.ms", "1000"},
    {"topic.metadata.refresh.fast.interval.ms", "100"},
    {"log.connection.close", "false"},
};
const std::pair<const char*, const char*> kProducerDefaults[] = {
    {"enable.idempotence", "true"},
    {"acks", "all"},
    {"compression.codec", "lz4"},
    // No lingering: while requests are under way, what is published meanwhile waits, and becomes
    // the next batch. So batches grow with the load and a lone event does not wait.
    {"linger.ms", "0"},
    {"queue.buffering.max.messages", "1000000"},
    {"queue.buffering.max.kbytes", "262144"},
    {"message.timeout.ms", "60000"},
};
const std::pair<const char*, const char*> kConsumerDefaults[] = {
    {"enable.auto.commit", "false"},
    {"enable.auto.offset.store", "false"},
    {"allow.auto.create.topics", "false"},
    {"auto.offset.reset", "error"},
    {"fetch.message.max.bytes", "4194304"},
    // A partition that is followed anew waits for the fetch under way, which for a quiet broker
    // takes this long (half a second by default, and that was the time of every seek). A message
    // ends the wait at once.
    {"fetch.wait.max.ms", "50"},
    // What waits in a partition's queue: then it is paused until half of it is taken (Refiller).
    {"queued.min.messages", "100000"},
    {"queued.max.messages.kbytes", "65536"},
};

int Milliseconds(std::chrono::milliseconds time) { return static_cast<int>(time.count()); }

void OnLog(const rd_kafka_t*, int level, const char* facility, const char* text) {
  constexpr int kSyslogError = 3, kSyslogWarning = 4, kSyslogInfo = 6;
  // A consumer is told of properties for producers, and the other way round.
  if (std::string_view(facility) == "CONFWARN") level = kSyslogInfo + 1;
  // An unreachable broker is an error of the call that needed it; until then it is tried again.
  const auto as = level < kSyslogError      ? core::LogLevel::kError
                  : level <= kSyslogWarning ? core::LogLevel::kWarning
                  : level <= kSyslogInfo    ? core::LogLevel::kInfo
                                            : core::LogLevel::kDebug;
  core::Log(as, kComponent, std::string(facility) + ": " + text);
}

int OnStatistics(rd_kafka_t*, char* json, size_t size, void*) {
  core::Log(core::LogLevel::kInfo, kComponent, "statistics: " + std::string(json, size));
  return 0;
}

// The newest thing that was wrong with the cluster as a whole, for the errors of calls that time
// out, and whether one of its brokers is too old. Thread-safe.
class LastError {
 public:
  void SetTooOld() { too_old_ = true; }
  bool too_old() const { return too_old_; }
  void Set(rd_kafka_resp_err_t error, std::string_view text) {
    std::lock_guard lock(mutex_);
    // That all are down says less than why the last one is.
    if (error == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN && !text_.empty()) return;
    error_ = error;
    text_ = text;
  }
  // `otherwise` when nothing was wrong.
  std::pair<rd_kafka_resp_err_t, std::string> Get(rd_kafka_resp_err_t otherwise) const {
    std::lock_guard lock(mutex_);
    if (text_.empty()) return {otherwise, rd_kafka_err2str(otherwise)};
    return {error_, text_};
  }

 private:
  std::atomic<bool> too_old_{false};
  mutable std::mutex mutex_;
  rd_kafka_resp_err_t error_ = RD_KAFKA_RESP_ERR_NO_ERROR;  // guarded by mutex_
  std::string text_;                                        // guarded by mutex_
};

// Of a handle that logs what brokers say they know (debug=feature), which the library tells in no other way. Static members
// came with version 5 of the request to join a group, in Kafka 2.3; without, it passes over that they are wanted.
void OnControlLog(const rd_kafka_t* handle, int level, const char* facility, const char* text) {
  constexpr int kOldestJoin = 5;
  const char* const join = std::strstr(text, "ApiKey JoinGroup (11) Versions ");
  int from = 0, to = 0;
  if (join != nullptr && std::sscanf(join, "ApiKey JoinGroup (11) Versions %d..%d", &from, &to) == 2 &&
      to < kOldestJoin) {
    static_cast<LastError*>(rd_kafka_opaque(handle))->SetTooOld();
  }
  OnLog(handle, level, facility, text);
}

void OnError(rd_kafka_t*, int error, const char* text, void* opaque) {
  static_cast<LastError*>(opaque)->Set(static_cast<rd_kafka_resp_err_t>(error), text);
}

// The reports of one publish. Lives on the publisher's stack, which waits for all of them.
struct Reports {
  struct One {
    Reports* all = nullptr;
    int64_t offset = -1;
    rd_kafka_resp_err_t error = RD_KAFKA_RESP_ERR_NO_ERROR;
  };
  std::vector<One> each;
  std::atomic<size_t> left{0};
  std::mutex mutex;
  std::condition_variable done;
  bool all = false;  // guarded by mutex; the last report touches nothing behind it

  void Done(size_t count) {
    if (left.fetch_sub(count) != count) return;
    std::lock_guard lock(mutex);
    all = true;
    done.notify_one();
  }
  void Wait() {
    std::unique_lock lock(mutex);
    done.wait(lock, [&] { return all; });
  }
};

void OnReport(rd_kafka_t*, const rd_kafka_message_t* message, void*) {
  auto* report = static_cast<Reports::One*>(message->_private);
  report->offset = message->offset;
  report->error = message->err;
  report->all->Done(1);
}

// One idempotent producer with the thread that serves its reports. Thread-safe.
class Producer {
 public:
  explicit Producer(Owned<rd_kafka_t> handle) : handle_(std::move(handle)) {
    thread_ = std::jthread([this](std::stop_token stop) {
      while (!stop.stop_requested()) rd_kafka_poll(handle_.get(), Milliseconds(kPollStep));
    });
  }
  ~Producer() {
    thread_.request_stop();
    thread_.join();
  }
  rd_kafka_t* handle() const { return handle_.get(); }
  bool failed() const {
    return rd_kafka_fatal_error(handle_.get(), nullptr, 0) != RD_KAFKA_RESP_ERR_NO_ERROR;
  }

 private:
  Owned<rd_kafka_t> handle_;
  std::jthread thread_;
};

// A consumer that follows any number of partitions, each once.
struct Consumer {
  Owned<rd_kafka_t> handle;
  std::set<std::pair<std::string, uint32_t>> followed;  // guarded by the transport's mutex
};

// The library does not fetch a partition whose queue is full, and its thread for that broker then
// sleeps for up to a second, whatever is taken from the queue meanwhile. A request to the broker
// wakes it. Requests wait for their answers here, so that no reader does. Thread-safe.
class Refiller {
 public:
  Refiller() : thread_([this](const std::stop_token& stop) { Run(stop); }) {}

  // Returns at once. `consumer` must live as long as this does.
  void Ask(rd_kafka_t* consumer, const std::string& topic, int32_t partition) {
    std::lock_guard lock(mutex_);
    wanted_.emplace(consumer, topic, partition);
    changed_.notify_one();
  }

 private:
  void Run(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (changed_.wait(lock, stop, [&] { return !wanted_.empty(); }) && !stop.stop_requested()) {
      const auto one = wanted_.extract(wanted_.begin());
      lock.unlock();
      // Where it ends is the cheapest question that goes to a partition's leader.
      const auto& [consumer, topic, partition] = one.value();
      const Owned<rd_kafka_topic_partition_list_t> list(rd_kafka_topic_partition_list_new(1));
      rd_kafka_topic_partition_list_add(list.get(), topic.c_str(), partition)->offset =
          RD_KAFKA_OFFSET_END;
      (void)rd_kafka_offsets_for_times(consumer, list.get(), Milliseconds(kRefillTimeout));
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::set<std::tuple<rd_kafka_t*, std::string, int32_t>> wanted_;  // guarded by mutex_
  std::jthread thread_;
};

// The event in a message, by the CloudEvents Kafka binding. Views into the message, or into
// `structured`.
Status ReadEvent(const rd_kafka_message_t& message, events::EventView* event,
                 std::vector<events::Event>* structured) {
  event->data = {static_cast<const char*>(message.payload), message.len};
  AttributesSeen seen;
  rd_kafka_headers_t* headers = nullptr;
  if (rd_kafka_message_headers(&message, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR) {
    const char* raw_name = nullptr;
    const void* value = nullptr;
    size_t size = 0;
    for (size_t i = 0; rd_kafka_header_get_all(headers, i, &raw_name, &value, &size) ==
                       RD_KAFKA_RESP_ERR_NO_ERROR;
         ++i) {
      std::string_view name(raw_name);
      const std::string_view text(static_cast<const char*>(value), size);
      if (name == kContentTypeHeader) {
        if (!event->datacontenttype.empty()) {
          return Invalid("content-type: is there twice", "send one of each");
        }
        event->datacontenttype = text;
        continue;
      }
      if (!name.starts_with(kHeaderPrefix)) continue;  // somebody else's
      name.remove_prefix(kHeaderPrefix.size());
      LEAT_TRY(TakeAttribute(name, text, &seen, event));
    }
  }
  // The key stands for the attribute where it is not what we take without one.
  const std::string_view key(static_cast<const char*>(message.key), message.key_len);
  if (event->partitionkey.empty() && key != event->subject && key != event->id)
    event->partitionkey = key;
  return FinishEvent(seen, event, structured);
}

}  // namespace

class KafkaTransport::Impl {
 public:
  explicit Impl(KafkaOptions given) : options(std::move(given)) {}

  std::string Named(std::string_view topic) const {
    return options.topic_prefix + std::string(topic);
  }
  // `more` are defaults beside those of all handles of that type; `prepare` has the last word.
  Result<Owned<rd_kafka_t>> Make(rd_kafka_type_t type, const kafka::Properties& more = {},
                                 const kafka::Prepare& prepare = {});
  Result<std::shared_ptr<Producer>> MakeProducer();
  Result<std::shared_ptr<Consumer>> ConsumerFor(const std::string& topic, uint32_t partition);
  void Release(const std::shared_ptr<Consumer>& consumer, const std::string& topic,
               uint32_t partition);
  // Asks the cluster; also, how many replicas the first of them has.
  Result<uint32_t> PartitionsOnCluster(std::string_view topic, int* replicas = nullptr);
  Result<uint32_t> Partitions(std::string_view topic);
  Status CheckPartition(std::string_view topic, uint32_t partition);
  Result<std::vector<events::Position>> Publish(std::string_view topic, std::optional<uint32_t> to,
                                                const std::vector<events::Event>& events);
  std::unexpected<Error> NoAnswer(const std::string& what, rd_kafka_resp_err_t error) const;
  Status Create(const std::string& name, rd_kafka_NewTopic_t* wanted);
  // Of a partition's leader, for some time again and again.
  rd_kafka_resp_err_t Ask(const std::function<rd_kafka_resp_err_t()>& call) const;

  const KafkaOptions options;
  LastError last_error;
  Owned<rd_kafka_t> control;  // a consumer that follows nothing: asks for metadata and offsets
  bool answered = false;      // a broker was there when this was opened
  std::mutex mutex;
  std::shared_ptr<Producer> producer;                // guarded by mutex
  std::vector<std::shared_ptr<Consumer>> consumers;  // guarded by mutex
  Refiller refiller;                                 // asks them, and so ends before they do
  std::map<std::string, uint32_t, std::less<>>
      partitions;  // of topics that were asked for; guarded by mutex
  std::map<std::string, std::string, std::less<>>
      owners;  // as this process created them; guarded by mutex
};

namespace {

// Messages of one fetch, read into events. They are given out in pieces, and freed when the last of
// these is.
struct Fetched {
  std::vector<rd_kafka_message_t*> raw;
  std::deque<std::vector<events::Event>> structured;
  std::deque<std::string> problems;
  std::vector<Message> messages;
  size_t bytes = 0;
  uint64_t end = 0;  // not 0: the partition's, as the library saw it
  // What the library reported in place of a message.
  rd_kafka_resp_err_t error = RD_KAFKA_RESP_ERR_NO_ERROR;
  std::string error_text;

  bool IsNothingNew(uint64_t next) const {
    return messages.empty() && end <= next && error == RD_KAFKA_RESP_ERR_NO_ERROR;
  }
  ~Fetched() {
    for (rd_kafka_message_t* message : raw) rd_kafka_message_destroy(message);
  }
};

// The queue of one partition. Of one thread at a time.
class FetchQueue {
 public:
  // `refill` is called when the library may have stopped to fill the queue, and there is room again.
  FetchQueue(Owned<rd_kafka_queue_t> queue, std::function<void()> refill)
      : queue_(std::move(queue)), refill_(std::move(refill)) {}

  // What is waiting, up to that many messages; null when the timeout passes first.
  std::shared_ptr<Fetched> Fetch(std::chrono::milliseconds timeout, size_t messages_max);
  rd_kafka_queue_t* get() const { return queue_.get(); }

 private:
  // Whether the queue was full is not told; that half of what waited is gone can be seen. Messages
  // are taken to be as large as those.
  void Took(const Fetched& fetched) {
    const size_t left = rd_kafka_queue_length(queue_.get());
    most_ = std::max(most_, left + fetched.raw.size());
    const size_t bytes = most_ * (fetched.bytes / fetched.raw.size());
    if (2 * left <= most_ && (most_ >= kRefillMessages || bytes >= kRefillBytes)) {
      refill_();
      most_ = left;
    }
  }

  Owned<rd_kafka_queue_t> queue_;
  std::function<void()> refill_;
  size_t most_ = 0;  // since the last refill
};

std::shared_ptr<Fetched> FetchQueue::Fetch(std::chrono::milliseconds timeout, size_t messages_max) {
  rd_kafka_queue_t* const queue = queue_.get();
  // The batch call waits until it is full or the time is over, so the first message is waited for
  // alone.
  rd_kafka_message_t* const first = rd_kafka_consume_queue(queue, Milliseconds(timeout));
  if (first == nullptr) return nullptr;
  auto fetched = std::make_shared<Fetched>();
  auto& raw = fetched->raw;
  raw.resize(messages_max);
  raw[0] = first;
  const ssize_t more =
      messages_max == 1 ? 0
                        : rd_kafka_consume_batch_queue(queue, 0, raw.data() + 1, messages_max - 1);
  raw.resize(1 + static_cast<size_t>(std::max<ssize_t>(more, 0)));
  std::erase_if(raw, [&](rd_kafka_message_t* message) {
    if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR) return false;
    if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
      fetched->end = static_cast<uint64_t>(message->offset);
    } else if (fetched->error == RD_KAFKA_RESP_ERR_NO_ERROR) {
      fetched->error = message->err;
      fetched->error_text = rd_kafka_message_errstr(message);
    }
    rd_kafka_message_destroy(message);
    return true;
  });
  std::vector<events::Event> structured;
  fetched->messages.reserve(raw.size());
  for (const rd_kafka_message_t* from : raw) {
    Message& to = fetched->messages.emplace_back();
    to.offset = static_cast<uint64_t>(from->offset);
    fetched->bytes += from->len;
    auto status = ReadEvent(*from, &to.event, &structured);
    if (!structured.empty()) fetched->structured.push_back(std::move(structured));
    if (status) continue;
    to.event = {};
    to.event.data = {static_cast<const char*>(from->payload), from->len};
    to.problem = fetched->problems.emplace_back(status.error().Text());
  }
  if (!fetched->raw.empty()) Took(*fetched);
  return fetched;
}

// Fetches ahead on a thread of its own while there is a backlog: unpacking headers and freeing them
// is most of what an event costs its reader, and need not be done by the thread that handles it.
// Ends by itself when the queue is empty, so that an event that comes alone is not handed over, and
// with an error of the library, which is the last thing it gives.
class Ahead {
 public:
  explicit Ahead(FetchQueue* queue) : queue_(queue), thread_([this] { Run(); }) {}
  ~Ahead() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      changed_.notify_all();
    }
    thread_.join();
  }
  Ahead(const Ahead&) = delete;
  Ahead& operator=(const Ahead&) = delete;

  // Null when the timeout passes first, and when it has ended. What is there is worth waiting for
  // even to who would not wait: that the queue is empty shows soon.
  std::shared_ptr<Fetched> Take(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::max(timeout, 2 * kAheadPause),
                      [&] { return !fetched_.empty() || ended_ || woken_; });
    woken_ = false;
    if (fetched_.empty()) return nullptr;
    auto taken = std::move(fetched_.front());
    fetched_.pop_front();
    bytes_ -= taken->bytes;
    changed_.notify_all();
    return taken;
  }
  bool ended() const {
    std::lock_guard lock(mutex_);
    return ended_ && fetched_.empty();
  }
  // What was read is freed here.
  void GiveBack(std::shared_ptr<const void> read) {
    std::lock_guard lock(mutex_);
    read_.push_back(std::move(read));
  }
  void Wake() {
    std::lock_guard lock(mutex_);
    woken_ = true;
    changed_.notify_all();
  }

 private:
  bool HasRoom() const { return fetched_.size() < kAheadFetches && bytes_ < kAheadBytesMax; }
  void Run() {
    std::vector<std::shared_ptr<const void>> read;
    for (;;) {
      read.clear();
      auto fetched = queue_->Fetch(kAheadPause, kAheadMessages);
      std::unique_lock lock(mutex_);
      const bool last = fetched == nullptr || fetched->error != RD_KAFKA_RESP_ERR_NO_ERROR;
      if (fetched != nullptr) {
        bytes_ += fetched->bytes;
        fetched_.push_back(std::move(fetched));
      }
      ended_ = last;
      changed_.notify_all();
      changed_.wait(lock, [&] { return stop_ || last || HasRoom(); });
      if (stop_ || last) return;
      read.swap(read_);
    }
  }

  FetchQueue* const queue_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Fetched>> fetched_;  // guarded by mutex_, as all of these
  std::vector<std::shared_ptr<const void>> read_;
  size_t bytes_ = 0;  // of fetched_
  bool stop_ = false;
  bool ended_ = false;
  bool woken_ = false;
  std::jthread thread_;
};

// One partition through a queue of its own.
class KafkaSubscription final : public Subscription {
 public:
  KafkaSubscription(rd_kafka_t* consumer, Owned<rd_kafka_topic_t> topic, std::string name,
                    uint32_t partition, uint64_t offset, std::unique_ptr<FetchQueue> queue,
                    std::function<void()> release)
      : consumer_(consumer),
        topic_(std::move(topic)),
        name_(std::move(name)),
        partition_(partition),
        next_(offset),
        queue_(std::move(queue)),
        release_(std::move(release)) {}
  ~KafkaSubscription() override {
    Halt();
    topic_.reset();
    queue_.reset();
    release_();
  }

  Status Poll(const PollLimits& limits, MessageBatch* batch) override;
  void Seek(uint64_t offset) override {
    Halt();
    next_ = offset;
  }
  void Wake() override {
    rd_kafka_queue_yield(queue_->get());
    std::lock_guard lock(ahead_mutex_);
    if (ahead_ != nullptr) ahead_->Wake();
  }

 private:
  Status Run();
  void Halt() {
    SetAhead(nullptr);
    if (running_) rd_kafka_consume_stop(topic_.get(), Partition());
    running_ = false;
    fetched_.reset();
    given_ = 0;
  }
  Status Fetch(const PollLimits& limits);
  Status OnError(rd_kafka_resp_err_t error, std::string_view text);
  int32_t Partition() const { return static_cast<int32_t>(partition_); }
  void SetAhead(std::unique_ptr<Ahead> ahead) {
    {
      std::lock_guard lock(ahead_mutex_);
      ahead_.swap(ahead);
    }
    full_ = 0;  // and the old one ends here
  }

  rd_kafka_t* const consumer_;
  Owned<rd_kafka_topic_t> topic_;
  const std::string name_;  // as the user knows it
  const uint32_t partition_;
  uint64_t next_;  // offset of the next message to give out
  std::unique_ptr<FetchQueue> queue_;
  std::function<void()> release_;
  bool running_ = false;
  std::shared_ptr<Fetched> fetched_;
  size_t given_ = 0;        // of fetched_
  size_t full_ = 0;         // fetches in a row that left something in the queue
  std::mutex ahead_mutex_;  // for Wake: all else is of one thread
  std::unique_ptr<Ahead> ahead_;
};

Status KafkaSubscription::Run() {
  if (running_) return {};
  if (rd_kafka_consume_start_queue(topic_.get(), Partition(), static_cast<int64_t>(next_),
                                   queue_->get()) != 0) {
    return Broken("following " + name_ + "/" + std::to_string(partition_), rd_kafka_last_error());
  }
  running_ = true;
  return {};
}

// What the consumer reports in place of a message.
Status KafkaSubscription::OnError(rd_kafka_resp_err_t error, std::string_view text) {
  switch (error) {
    case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
    case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE: {
      // Beyond the end: it is waited for. Before the beginning: retention has taken it.
      int64_t low = 0, high = 0;
      running_ = false;
      rd_kafka_consume_stop(topic_.get(), Partition());
      constexpr int kTimeoutMs = 5000;
      const auto asked = rd_kafka_query_watermark_offsets(
          consumer_, rd_kafka_topic_name(topic_.get()), Partition(), &low, &high, kTimeoutMs);
      if (asked != RD_KAFKA_RESP_ERR_NO_ERROR) return {};  // asked again at the next poll
      if (static_cast<int64_t>(next_) >= low) return {};
      return Fail(ErrorClass::kNotFound,
                  name_ + "/" + std::to_string(partition_) + " no longer has offset " +
                      std::to_string(next_) + ": it begins at " + std::to_string(low),
                  "give its topic a longer retention, or build anew from a snapshot");
    }
    case RD_KAFKA_RESP_ERR__BAD_MSG:
    case RD_KAFKA_RESP_ERR__BAD_COMPRESSION:
    case RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED:
      // The library goes on behind it.
      return Fail(ErrorClass::kCorrupt,
                  name_ + "/" + std::to_string(partition_) + ": messages from offset " +
                      std::to_string(next_) + " on cannot be read: " + std::string(text),
                  "check the broker's disk");
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
    case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
    case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
      return Broken(name_, error);
    default:
      // Everything else passes, or is tried again by the library.
      core::LogInfo(kComponent, name_ + ": " + std::string(text));
      return {};
  }
}

Status KafkaSubscription::Fetch(const PollLimits& limits) {
  rd_kafka_poll(consumer_, 0);  // its errors and statistics
  std::shared_ptr<Fetched> fetched;
  if (ahead_ != nullptr) {
    fetched = ahead_->Take(limits.timeout);
    if (fetched == nullptr && ahead_->ended()) SetAhead(nullptr);
    if (fetched == nullptr) return {};
  } else {
    const size_t messages_max = std::min(limits.messages_max, kAheadMessages);
    // That the end is where it was is no news.
    const auto deadline = std::chrono::steady_clock::now() + limits.timeout;
    auto left = limits.timeout;
    do {
      fetched = queue_->Fetch(left, messages_max);
      if (fetched == nullptr) return {};
      left = std::chrono::ceil<std::chrono::milliseconds>(deadline -
                                                          std::chrono::steady_clock::now());
    } while (fetched->IsNothingNew(next_) && left.count() > 0);
    full_ = fetched->messages.size() == messages_max ? full_ + 1 : 0;
  }
  if (fetched->error != RD_KAFKA_RESP_ERR_NO_ERROR) {
    SetAhead(nullptr);  // it has ended, and gave this last
    if (auto status = OnError(fetched->error, fetched->error_text); !status) {
      Halt();  // what was fetched with it comes again
      return status;
    }
  } else if (ahead_ == nullptr && full_ >= kAheadAfter) {
    SetAhead(std::make_unique<Ahead>(queue_.get()));
  }
  fetched_ = std::move(fetched);
  given_ = 0;
  return {};
}

Status KafkaSubscription::Poll(const PollLimits& limits, MessageBatch* batch) {
  if (fetched_ != nullptr && given_ == fetched_->messages.size()) fetched_.reset();
  if (ahead_ != nullptr) {
    for (auto& pin : batch->pins) ahead_->GiveBack(std::move(pin));
  }
  batch->Clear();
  if (fetched_ == nullptr) {
    LEAT_TRY(Run());
    LEAT_TRY(Fetch(limits));
    if (!running_) {
      constexpr std::chrono::milliseconds kPause(
          20);  // behind the end: nothing tells when it comes
      std::this_thread::sleep_for(std::min(limits.timeout, kPause));
    }
    if (fetched_ == nullptr) return {};
  }
  auto& messages = fetched_->messages;
  if (given_ == 0 && messages.size() <= limits.messages_max &&
      fetched_->bytes <= limits.bytes_max) {
    batch->messages.swap(messages);  // leaves none
  } else {
    size_t bytes = 0;
    for (; given_ < messages.size() && batch->messages.size() < limits.messages_max &&
           bytes < limits.bytes_max;
         ++given_) {
      bytes += fetched_->raw[given_]->len;
      batch->messages.push_back(std::move(messages[given_]));
    }
  }
  // Kafka has numbers of its own, such as those of a transaction's end; what retention took before
  // it was read is an error (auto.offset.reset).
  for (Message& message : batch->messages) {
    if (message.offset > next_) message.vacant = message.offset - next_;
    next_ = message.offset + 1;
  }
  if (given_ == messages.size() && fetched_->end > next_) batch->vacant_to = fetched_->end;
  if (!batch->messages.empty()) batch->pins.push_back(fetched_);
  return {};
}

}  // namespace

namespace {

constexpr std::string_view kTooOld = "a broker is older than Kafka 2.3";
// In librdkafka's words: the broker does not even know the request for what it knows.
constexpr std::string_view kTooOldText = "broker version < 0.10";
// In the broker's.
constexpr std::string_view kFencedText = "fenced";

bool MayPass(ErrorClass error_class) { return error_class == ErrorClass::kUnavailable; }

// Where no broker answers, or not as it should.
std::string RemedyFor(ErrorClass error_class, rd_kafka_resp_err_t error, const std::string& text) {
  if (error_class == ErrorClass::kUnsupported)
    return "Leat needs brokers of Kafka 2.3 or later: upgrade them, or set kafka.bootstrap.servers";
  if (error == RD_KAFKA_RESP_ERR__SSL)
    return "check kafka.security.protocol, kafka.ssl.ca.location and the broker's certificate";
  if (error_class == ErrorClass::kInvalid) {
    std::string remedy =
        "check kafka.security.protocol, kafka.sasl.mechanism, kafka.sasl.username and "
        "kafka.sasl.password";
    if (text.find("SCRAM") != std::string::npos && rd_kafka_version() < kScramWithKafka4) {
      remedy += std::string("; librdkafka ") + rd_kafka_version_str() +
                " cannot do SCRAM with Kafka 4.0 or later: use librdkafka 2.6.1 or later, or PLAIN "
                "over TLS";
    }
    return remedy;
  }
  return "start a broker there (deploy/kafka start), or set kafka.bootstrap.servers and "
         "kafka.security.protocol";
}

}  // namespace

std::unexpected<Error> KafkaTransport::Impl::NoAnswer(const std::string& what,
                                                      rd_kafka_resp_err_t error) const {
  const auto [newest, text] = last_error.Get(error);
  // What once went wrong explains a call that got no answer; whether that may be tried again is for
  // the call to say, once there was an answer.
  const auto cause = answered ? error : newest;
  const auto servers = options.properties.find("bootstrap.servers");
  const std::string at = servers == options.properties.end() ? "" : " at " + servers->second;
  const bool old = last_error.too_old() && !answered;
  const auto error_class = old || (!answered && text.find(kTooOldText) != std::string::npos)
                               ? ErrorClass::kUnsupported
                               : ClassOf(cause);
  return Fail(error_class,
              "kafka" + at + ": " + what + ": " + (old ? std::string(kTooOld) : text),
              RemedyFor(error_class, cause, text));
}

Result<Owned<rd_kafka_t>> KafkaTransport::Impl::Make(rd_kafka_type_t type,
                                                     const kafka::Properties& more,
                                                     const kafka::Prepare& prepare) {
  Owned<rd_kafka_conf_t> conf(rd_kafka_conf_new());
  char text[kErrorTextMax] = "";
  const auto set = [&](const std::string& name, const std::string& value) -> Status {
    if (rd_kafka_conf_set(conf.get(), name.c_str(), value.c_str(), text, sizeof text) ==
        RD_KAFKA_CONF_OK) {
      return {};
    }
    // The library's text may hold the value, which may be a secret.
    return Invalid("kafka." + name + ": is no property of librdkafka, or its value is not taken",
                   "see librdkafka's CONFIGURATION.md");
  };
  for (const auto& [name, value] : kCommonDefaults) LEAT_TRY(set(name, value));
  LEAT_TRY(set("message.max.bytes", std::to_string(kMessageBytesMax)));
  if (type == RD_KAFKA_PRODUCER) {
    for (const auto& [name, value] : kProducerDefaults) LEAT_TRY(set(name, value));
    rd_kafka_conf_set_dr_msg_cb(conf.get(), OnReport);
  } else {
    for (const auto& [name, value] : kConsumerDefaults) LEAT_TRY(set(name, value));
  }
  for (const auto& [name, value] : more) LEAT_TRY(set(name, value));
  // One for the other kind of handle is taken, too, and has no effect.
  for (const auto& [name, value] : options.properties) LEAT_TRY(set(name, value));
  rd_kafka_conf_set_log_cb(conf.get(), OnLog);
  rd_kafka_conf_set_error_cb(conf.get(), OnError);
  rd_kafka_conf_set_stats_cb(conf.get(), OnStatistics);
  rd_kafka_conf_set_opaque(conf.get(), &last_error);
  if (prepare) prepare(conf.get());
  Owned<rd_kafka_t> handle(rd_kafka_new(type, conf.get(), text, sizeof text));
  if (handle == nullptr)
    return Invalid(std::string("kafka: ") + text, "check the properties kafka.*");
  (void)conf.release();  // the handle has taken it
  return handle;
}

Result<std::shared_ptr<Producer>> KafkaTransport::Impl::MakeProducer() {
  std::lock_guard lock(mutex);
  if (producer != nullptr && !producer->failed()) return producer;
  if (producer != nullptr) {
    char text[kErrorTextMax] = "";
    rd_kafka_fatal_error(producer->handle(), text, sizeof text);
    core::LogWarning(kComponent, std::string("the producer failed, a new one takes over: ") + text);
  }
  LEAT_ASSIGN(auto handle, Make(RD_KAFKA_PRODUCER));
  producer = std::make_shared<Producer>(std::move(handle));
  return producer;
}

Result<std::shared_ptr<Consumer>> KafkaTransport::Impl::ConsumerFor(const std::string& topic,
                                                                    uint32_t partition) {
  std::lock_guard lock(mutex);
  for (const auto& consumer : consumers) {
    if (consumer->followed.emplace(topic, partition).second) return consumer;
  }
  LEAT_ASSIGN(auto handle, Make(RD_KAFKA_CONSUMER, {{"enable.partition.eof", "true"}}));
  auto made = std::make_shared<Consumer>(std::move(handle));
  made->followed.emplace(topic, partition);
  consumers.push_back(made);
  return made;
}

void KafkaTransport::Impl::Release(const std::shared_ptr<Consumer>& consumer,
                                   const std::string& topic, uint32_t partition) {
  std::lock_guard lock(mutex);
  consumer->followed.erase({topic, partition});
}

Result<uint32_t> KafkaTransport::Impl::PartitionsOnCluster(std::string_view topic, int* replicas) {
  const std::string name = Named(topic);
  const Owned<rd_kafka_topic_t> handle(rd_kafka_topic_new(control.get(), name.c_str(), nullptr));
  if (handle == nullptr) return Broken("topic " + name, rd_kafka_last_error());
  const rd_kafka_metadata_t* raw = nullptr;
  const auto asked =
      rd_kafka_metadata(control.get(), 0, handle.get(), &raw, Milliseconds(options.timeout));
  if (asked != RD_KAFKA_RESP_ERR_NO_ERROR) return NoAnswer("asking for topic " + name, asked);
  const Owned<const rd_kafka_metadata_t> metadata(raw);
  if (metadata->topic_cnt != 1) return Broken("topic " + name, RD_KAFKA_RESP_ERR__BAD_MSG);
  const auto& found = metadata->topics[0];
  if (found.err != RD_KAFKA_RESP_ERR_NO_ERROR) {
    if (ClassOf(found.err) == ErrorClass::kNotFound) {
      return Fail(ErrorClass::kNotFound, "there is no topic " + std::string(topic),
                  "create it first");
    }
    return Broken("topic " + name, found.err);
  }
  for (int i = 0; i < found.partition_cnt; ++i) {
    if (found.partitions[i].leader < 0)
      return Broken("topic " + name, RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE);
  }
  if (replicas != nullptr && found.partition_cnt > 0) *replicas = found.partitions[0].replica_cnt;
  std::lock_guard lock(mutex);
  return partitions[std::string(topic)] = static_cast<uint32_t>(found.partition_cnt);
}

Result<uint32_t> KafkaTransport::Impl::Partitions(std::string_view topic) {
  {
    std::lock_guard lock(mutex);
    const auto known = partitions.find(topic);
    if (known != partitions.end()) return known->second;
  }
  LEAT_TRY(events::CheckTopicName(topic));
  return PartitionsOnCluster(topic);
}

Status KafkaTransport::Impl::CheckPartition(std::string_view topic, uint32_t partition) {
  LEAT_ASSIGN(const uint32_t count, Partitions(topic));
  if (partition < count) return {};
  return Fail(ErrorClass::kNotFound, "topic " + std::string(topic) + " has no partition " +
                                         std::to_string(partition) + ", only " +
                                         std::to_string(count));
}

Result<std::vector<events::Position>> KafkaTransport::Impl::Publish(
    std::string_view topic, std::optional<uint32_t> to, const std::vector<events::Event>& events) {
  LEAT_ASSIGN(const uint32_t count, Partitions(topic));
  if (to) LEAT_TRY(CheckPartition(topic, *to));
  for (const auto& event : events) LEAT_TRY(events::CheckLimits(event.view()));
  LEAT_ASSIGN(const auto through, MakeProducer());
  const Owned<rd_kafka_topic_t> handle(
      rd_kafka_topic_new(through->handle(), Named(topic).c_str(), nullptr));
  if (handle == nullptr) return Broken("topic " + std::string(topic), rd_kafka_last_error());

  Reports reports;
  reports.each.resize(events.size());
  reports.left = events.size();
  std::vector<events::Position> positions(events.size());
  AttributeTexts texts;
  std::string name(kHeaderPrefix);
  for (size_t i = 0; i < events.size(); ++i) {
    const events::EventView& event = events[i].view();
    const std::string_view key = KeyOf(event);
    reports.each[i].all = &reports;
    positions[i].topic = topic;
    positions[i].partition = to ? *to : count == 1 ? 0 : PartitionOf(key, count);

    rd_kafka_headers_t* headers = rd_kafka_headers_new(kHeadersUsual);
    const auto add = [&](std::string_view header, std::string_view text) {
      rd_kafka_header_add(headers, header.data(), static_cast<ssize_t>(header.size()), text.data(),
                          static_cast<ssize_t>(text.size()));
    };
    ForEachAttribute(event, &texts, [&](std::string_view attribute, std::string_view text) {
      name.resize(kHeaderPrefix.size());
      name += attribute;
      add(name, text);
    });
    add(kContentTypeHeader,
        event.datacontenttype.empty() ? events::kProtobufContentType : event.datacontenttype);

    rd_kafka_vu_t parts[7] = {};
    parts[0].vtype = RD_KAFKA_VTYPE_RKT;
    parts[0].u.rkt = handle.get();
    parts[1].vtype = RD_KAFKA_VTYPE_PARTITION;
    parts[1].u.i32 = static_cast<int32_t>(positions[i].partition);
    parts[2].vtype = RD_KAFKA_VTYPE_KEY;
    parts[2].u.mem = {const_cast<char*>(key.data()), key.size()};
    // Not copied: the event is there until all reports are.
    parts[3].vtype = RD_KAFKA_VTYPE_VALUE;
    parts[3].u.mem = {const_cast<char*>(event.data.empty() ? "" : event.data.data()),
                      event.data.size()};
    parts[4].vtype = RD_KAFKA_VTYPE_MSGFLAGS;
    parts[4].u.i = 0;
    parts[5].vtype = RD_KAFKA_VTYPE_OPAQUE;
    parts[5].u.ptr = &reports.each[i];
    parts[6].vtype = RD_KAFKA_VTYPE_HEADERS;
    parts[6].u.headers = headers;
    rd_kafka_resp_err_t error;
    for (;;) {
      rd_kafka_error_t* const refused =
          rd_kafka_produceva(through->handle(), parts, std::size(parts));
      if (refused == nullptr) {
        error = RD_KAFKA_RESP_ERR_NO_ERROR;
        break;
      }
      error = rd_kafka_error_code(refused);
      rd_kafka_error_destroy(refused);
      if (error != RD_KAFKA_RESP_ERR__QUEUE_FULL) break;
      std::this_thread::sleep_for(kRetryPause);  // until reports make room
    }
    if (error == RD_KAFKA_RESP_ERR_NO_ERROR) continue;
    rd_kafka_headers_destroy(headers);
    for (size_t rest = i; rest < events.size(); ++rest) reports.each[rest].error = error;
    reports.Done(events.size() - i);
    break;
  }
  if (!events.empty()) reports.Wait();

  for (size_t i = 0; i < events.size(); ++i) {
    const auto& report = reports.each[i];
    if (report.error != RD_KAFKA_RESP_ERR_NO_ERROR) {
      const auto there =
          std::count_if(reports.each.begin(), reports.each.end(),
                        [](const auto& one) { return one.error == RD_KAFKA_RESP_ERR_NO_ERROR; });
      return Broken("publishing to " + std::string(topic) + " (" + std::to_string(there) + " of " +
                        std::to_string(events.size()) + " were confirmed)",
                    report.error, "publish again");
    }
    positions[i].offset = static_cast<uint64_t>(report.offset);
  }
  return positions;
}

KafkaTransport::KafkaTransport(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
KafkaTransport::~KafkaTransport() = default;

Result<std::unique_ptr<KafkaTransport>> KafkaTransport::Open(const KafkaOptions& options) {
  auto impl = std::make_unique<Impl>(options);
  const auto logs_features = [&](rd_kafka_conf_t* conf) {
    const auto debug = options.properties.find("debug");
    const std::string contexts = debug == options.properties.end() || debug->second.empty()
                                     ? "feature"
                                     : debug->second + ",feature";
    const auto set = rd_kafka_conf_set(conf, "debug", contexts.c_str(), nullptr, 0);
    LEAT_ASSERT(set == RD_KAFKA_CONF_OK);  // what the user wants was taken
    rd_kafka_conf_set_log_cb(conf, OnControlLog);
  };
  LEAT_ASSIGN(impl->control, impl->Make(RD_KAFKA_CONSUMER, {}, logs_features));
  // Nothing is asked but that somebody answers. What a broker refuses it refuses again, so it is
  // not asked for all of the time.
  const rd_kafka_metadata_t* raw = nullptr;
  const auto deadline = std::chrono::steady_clock::now() + options.timeout;
  rd_kafka_resp_err_t asked;
  for (int refusals = 0; refusals < kRefusalsMax;) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    asked = rd_kafka_metadata(impl->control.get(), 0, nullptr, &raw,
                              Milliseconds(std::clamp(left, kAskedAgain, kOpenStep)));
    rd_kafka_poll(impl->control.get(), 0);  // brings the errors
    if (asked == RD_KAFKA_RESP_ERR_NO_ERROR || left <= kOpenStep) break;
    if (!MayPass(ClassOf(impl->last_error.Get(asked).first))) ++refusals;
  }
  if (asked != RD_KAFKA_RESP_ERR_NO_ERROR) return impl->NoAnswer("no broker answers", asked);
  rd_kafka_metadata_destroy(raw);
  if (impl->last_error.too_old()) return impl->NoAnswer("it cannot be used", asked);
  impl->answered = true;
  return std::unique_ptr<KafkaTransport>(new KafkaTransport(std::move(impl)));
}

Features KafkaTransport::features() const {
  Features features;
  features.name = "kafka";
  features.end_at_once = false;
  features.groups_remember = true;
  features.groups_show_lag = true;
  return features;
}

// Fine when it is there.
Status KafkaTransport::Impl::Create(const std::string& name, rd_kafka_NewTopic_t* wanted) {
  char text[kErrorTextMax] = "";
  const Owned<rd_kafka_AdminOptions_t> how(
      rd_kafka_AdminOptions_new(control.get(), RD_KAFKA_ADMIN_OP_CREATETOPICS));
  rd_kafka_AdminOptions_set_request_timeout(how.get(), Milliseconds(options.timeout), text,
                                            sizeof text);
  rd_kafka_AdminOptions_set_operation_timeout(how.get(), Milliseconds(options.timeout), text,
                                              sizeof text);
  const auto deadline = std::chrono::steady_clock::now() + options.timeout;
  for (;;) {
    const Owned<rd_kafka_queue_t> queue(rd_kafka_queue_new(control.get()));
    rd_kafka_NewTopic_t* topics[] = {wanted};
    rd_kafka_CreateTopics(control.get(), topics, 1, how.get(), queue.get());
    const Owned<rd_kafka_event_t> answer(
        rd_kafka_queue_poll(queue.get(), Milliseconds(2 * options.timeout)));
    if (answer == nullptr) return NoAnswer("creating topic " + name, RD_KAFKA_RESP_ERR__TIMED_OUT);
    if (const auto error = rd_kafka_event_error(answer.get());
        error != RD_KAFKA_RESP_ERR_NO_ERROR) {
      return NoAnswer("creating topic " + name, error);
    }
    size_t count = 0;
    const auto results = rd_kafka_CreateTopics_result_topics(
        rd_kafka_event_CreateTopics_result(answer.get()), &count);
    const auto error = rd_kafka_topic_result_error(results[0]);
    if (error == RD_KAFKA_RESP_ERR_NO_ERROR || error == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS)
      return {};
    const char* const said = rd_kafka_topic_result_error_string(results[0]);
    const std::string why = said == nullptr ? "" : said;
    // A broker that was started a moment ago, or did not answer its controller in time, counts as
    // none.
    const bool fenced = error == RD_KAFKA_RESP_ERR_INVALID_REPLICATION_FACTOR &&
                        why.find(kFencedText) != std::string::npos;
    if (!fenced || std::chrono::steady_clock::now() > deadline) {
      return Fail(fenced ? ErrorClass::kUnavailable : ClassOf(error),
                  "kafka: creating topic " + name + ": " + why,
                  "check topics.replication and the broker's policies");
    }
    std::this_thread::sleep_for(kAskedAgain);
  }
}

Status KafkaTransport::CreateTopic(std::string_view topic, uint32_t partitions,
                                   const TopicOptions& wanted_options) {
  const std::string_view owner = wanted_options.owner;
  LEAT_TRY(events::CheckTopicName(topic));
  if (partitions == 0)
    return Invalid("topic " + std::string(topic) + ": 0 partitions", "at least 1");
  const std::string name = impl_->Named(topic);
  const int64_t retention_ms = wanted_options.retention.count() > 0
                                   ? wanted_options.retention.count()
                                   : impl_->options.retention_ms;
  int replicas = 0;
  auto there = impl_->PartitionsOnCluster(topic, &replicas);
  if (!there && there.error().error_class == ErrorClass::kNotFound) {
    char text[kErrorTextMax] = "";
    const Owned<rd_kafka_NewTopic_t> wanted(rd_kafka_NewTopic_new(
        name.c_str(), static_cast<int>(partitions), impl_->options.replication, text, sizeof text));
    if (wanted == nullptr) return Invalid("topic " + std::string(topic) + ": " + text);
    rd_kafka_NewTopic_set_config(wanted.get(), "max.message.bytes",
                                 std::to_string(kMessageBytesMax).c_str());
    rd_kafka_NewTopic_set_config(wanted.get(), "retention.ms",
                                 std::to_string(retention_ms).c_str());
    if (wanted_options.retention.count() > 0) {
      const int64_t segment_ms = std::max(retention_ms / kSegmentsInRetention, kSegmentMsMin);
      rd_kafka_NewTopic_set_config(wanted.get(), "segment.ms", std::to_string(segment_ms).c_str());
      rd_kafka_NewTopic_set_config(wanted.get(), "segment.bytes",
                                   std::to_string(kSegmentBytes).c_str());
    }
    LEAT_TRY(impl_->Create(name, wanted.get()));
    // The brokers learn of it one after another.
    const auto deadline = std::chrono::steady_clock::now() + impl_->options.timeout;
    while (!(there = impl_->PartitionsOnCluster(topic, &replicas)) &&
           std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(kRetryPause);
    }
    if (!there) {
      return Fail(ErrorClass::kUnavailable,
                  "kafka: topic " + name +
                      " was created, and no broker has it yet: " + there.error().message,
                  "try again");
    }
  }
  if (!there) return std::unexpected(there.error());
  if (*there == partitions) {
    const kafka::TopicWishes wishes{name, retention_ms, static_cast<int64_t>(kMessageBytesMax),
                                    impl_->options.replication, replicas};
    LEAT_TRY(kafka::CheckTopic(impl_->control.get(), wishes, impl_->options.timeout));
    std::lock_guard lock(impl_->mutex);
    const auto known = impl_->owners.find(topic);
    if (known != impl_->owners.end() && known->second != owner) {
      return Fail(ErrorClass::kConflict,
                  "topic " + std::string(topic) + " belongs to " + known->second,
                  "name another topic");
    }
    if (!owner.empty()) impl_->owners[std::string(topic)] = owner;
    return {};
  }
  return Fail(ErrorClass::kConflict,
              "topic " + std::string(topic) + " has " + std::to_string(*there) +
                  " partitions, not " + std::to_string(partitions),
              "configure as many, or use another topic: keys do not move between partitions");
}

Result<std::vector<TopicInfo>> KafkaTransport::Topics() {
  const rd_kafka_metadata_t* raw = nullptr;
  const auto asked = rd_kafka_metadata(impl_->control.get(), 1, nullptr, &raw,
                                       Milliseconds(impl_->options.timeout));
  if (asked != RD_KAFKA_RESP_ERR_NO_ERROR) return impl_->NoAnswer("asking for the topics", asked);
  const Owned<const rd_kafka_metadata_t> metadata(raw);
  std::vector<TopicInfo> topics;
  for (int i = 0; i < metadata->topic_cnt; ++i) {
    std::string_view name = metadata->topics[i].topic;
    if (name.starts_with("__") || !name.starts_with(impl_->options.topic_prefix))
      continue;  // __: Kafka's own
    name.remove_prefix(impl_->options.topic_prefix.size());
    if (!events::CheckTopicName(name)) continue;
    std::lock_guard lock(impl_->mutex);
    const auto owner = impl_->owners.find(name);
    topics.push_back({std::string(name), static_cast<uint32_t>(metadata->topics[i].partition_cnt),
                      owner == impl_->owners.end() ? std::string() : owner->second});
  }
  std::sort(topics.begin(), topics.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return topics;
}

Result<std::unique_ptr<Membership>> KafkaTransport::Join(std::string_view topic,
                                                         std::string_view group,
                                                         std::string_view instance) {
  LEAT_TRY(CheckGroup(topic, group, instance));
  if (impl_->last_error.too_old()) {  // it came after this was opened
    return Fail(ErrorClass::kUnsupported, "kafka: group " + std::string(group) + ": " + std::string(kTooOld),
                "upgrade it, or take it out of the cluster");
  }
  kafka::GroupNames names;
  LEAT_ASSIGN(names.partitions, impl_->Partitions(topic));
  names.topic = impl_->Named(topic);
  names.group = impl_->Named(group);
  // A member of several topics' groups is another one in each.
  names.instance = std::string(instance) + "." + std::string(topic);
  if (names.instance.size() > kNameBytesMax || names.group.size() > kNameBytesMax) {
    return Invalid("group " + names.group + ", member " + names.instance + ": the name is too long",
                   "Kafka takes " + std::to_string(kNameBytesMax) + " characters");
  }
  const auto make = [this](const kafka::Properties& more,
                           const kafka::Prepare& prepare) -> Result<rd_kafka_t*> {
    LEAT_ASSIGN(auto handle, impl_->Make(RD_KAFKA_CONSUMER, more, prepare));
    return handle.release();
  };
  return kafka::JoinGroup(make, names, std::string(instance));
}

Result<std::unique_ptr<Subscription>> KafkaTransport::Subscribe(std::string_view topic,
                                                                uint32_t partition,
                                                                uint64_t offset) {
  LEAT_TRY(impl_->CheckPartition(topic, partition));
  const std::string name = impl_->Named(topic);
  LEAT_ASSIGN(const auto consumer, impl_->ConsumerFor(name, partition));
  Owned<rd_kafka_topic_t> handle(rd_kafka_topic_new(consumer->handle.get(), name.c_str(), nullptr));
  auto queue = std::make_unique<FetchQueue>(
      Owned<rd_kafka_queue_t>(rd_kafka_queue_new(consumer->handle.get())),
      [refiller = &impl_->refiller, raw = consumer->handle.get(), name, partition] {
        refiller->Ask(raw, name, static_cast<int32_t>(partition));
      });
  return std::make_unique<KafkaSubscription>(
      consumer->handle.get(), std::move(handle), std::string(topic), partition, offset,
      std::move(queue), [impl = impl_.get(), consumer, name, partition] {
        impl->Release(consumer, name, partition);
      });
}

rd_kafka_resp_err_t KafkaTransport::Impl::Ask(const std::function<rd_kafka_resp_err_t()>& call) const {
  rd_kafka_poll(control.get(), 0);  // its errors and statistics
  // A leader that is new, or comes back, takes a moment until it answers.
  const auto deadline = std::chrono::steady_clock::now() + options.timeout;
  for (;;) {
    const auto asked = call();
    if (asked == RD_KAFKA_RESP_ERR_NO_ERROR || ClassOf(asked) != ErrorClass::kUnavailable ||
        std::chrono::steady_clock::now() >= deadline) {
      return asked;
    }
    std::this_thread::sleep_for(kAskedAgain);
  }
}

Result<PartitionEnd> KafkaTransport::End(std::string_view topic, uint32_t partition) {
  LEAT_TRY(impl_->CheckPartition(topic, partition));
  int64_t low = 0, high = 0;
  const auto asked = impl_->Ask([&] {
    return rd_kafka_query_watermark_offsets(impl_->control.get(), impl_->Named(topic).c_str(),
                                            static_cast<int32_t>(partition), &low, &high,
                                            Milliseconds(impl_->options.timeout));
  });
  if (asked != RD_KAFKA_RESP_ERR_NO_ERROR) {
    return impl_->NoAnswer("asking for the end of " + std::string(topic), asked);
  }
  return PartitionEnd{static_cast<uint64_t>(high), 0};
}

Result<uint64_t> KafkaTransport::OffsetAt(std::string_view topic, uint32_t partition,
                                          int64_t time_us) {
  LEAT_ASSIGN(const auto end, End(topic, partition));  // what comes meanwhile lies behind it
  int64_t offset = RD_KAFKA_OFFSET_END;
  const auto asked = impl_->Ask([&] {
    const Owned<rd_kafka_topic_partition_list_t> list(rd_kafka_topic_partition_list_new(1));
    auto* const one = rd_kafka_topic_partition_list_add(list.get(), impl_->Named(topic).c_str(),
                                                        static_cast<int32_t>(partition));
    one->offset = std::max<int64_t>(time_us, 0) / 1000;  // it is milliseconds here
    const auto answered = rd_kafka_offsets_for_times(impl_->control.get(), list.get(),
                                                     Milliseconds(impl_->options.timeout));
    offset = one->offset;
    return answered == RD_KAFKA_RESP_ERR_NO_ERROR ? one->err : answered;
  });
  if (asked != RD_KAFKA_RESP_ERR_NO_ERROR) {
    return impl_->NoAnswer("asking for an offset of " + std::string(topic), asked);
  }
  return offset >= 0 ? static_cast<uint64_t>(offset) : end.offset;
}

Result<std::vector<events::Position>> KafkaTransport::Publish(
    std::string_view topic, const std::vector<events::Event>& events) {
  {
    std::lock_guard lock(impl_->mutex);
    if (const auto owner = impl_->owners.find(topic); owner != impl_->owners.end()) {
      return Fail(ErrorClass::kConflict,
                  "topic " + std::string(topic) + " is written only by " + owner->second,
                  "publish to a topic of your own");
    }
  }
  return impl_->Publish(topic, std::nullopt, events);
}

void KafkaTransport::FailProducerForTest() {
  if (const auto through = impl_->MakeProducer()) {
    rd_kafka_test_fatal_error((*through)->handle(), RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
                              "asked for by a test");
  }
}

Status KafkaTransport::PublishTo(std::string_view topic, uint32_t partition,
                                 const std::vector<events::Event>& events) {
  LEAT_TRY(impl_->Publish(topic, partition, events));
  return {};
}

}  // namespace leat::bus
