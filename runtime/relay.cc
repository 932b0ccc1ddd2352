#include "runtime/relay.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "core/clock.h"
#include "core/log.h"
#include "events/registry.h"
#include "runtime/retry.h"

namespace leat::runtime {
namespace {

constexpr size_t kBatchBytesMax = 1u << 20;
constexpr size_t kCommitBytes = 4u << 20;
constexpr auto kIdle = std::chrono::milliseconds(100);
// While something is on its way back: what the log gets meanwhile waits for no longer than this.
constexpr auto kBehind = std::chrono::milliseconds(1);
// Before what was published is given up as lost: then it is published again.
constexpr auto kReadBackMax = std::chrono::seconds(30);
// Whoever claims the partition reads again what came since.
constexpr auto kKeepInterval = std::chrono::seconds(1);
// Nothing comes for so long: there is nothing more, or it will be read when it is there.
constexpr auto kQuiet = std::chrono::seconds(10);

// A name that nobody else has.
std::string NewInstance() {
  static std::atomic<uint64_t> count{0};
  return std::to_string(core::SystemClock().NowUs()) + "-" + std::to_string(getpid()) + "-" +
         std::to_string(count++);
}

// The one event at an offset of a topic.
Result<events::Event> ReadOne(bus::Subscriber* transport, const RunnerOptions& from,
                              uint64_t offset) {
  LEAT_ASSIGN(auto subscription, transport->Subscribe(from.topic, from.partition, offset));
  bus::PollLimits one;
  one.messages_max = 1;
  bus::MessageBatch batch;
  const auto deadline = std::chrono::steady_clock::now() + kReadBackMax;
  while (batch.messages.empty()) {
    if (auto polled = subscription->Poll(one, &batch); !polled && !polled.error().Retryable()) {
      return std::unexpected(polled.error());
    }
    if (batch.messages.empty() && std::chrono::steady_clock::now() > deadline) {
      return Fail(ErrorClass::kUnavailable,
                  from.topic + ": offset " + std::to_string(offset) + " cannot be read, nothing comes",
                  "try again");
    }
  }
  if (batch.messages.front().offset != offset) {
    return Fail(ErrorClass::kNotFound,
                from.topic + " no longer has offset " + std::to_string(offset));
  }
  return events::Event(batch.messages.front().event);
}

// Whether an event with this cause may come after what was read of a decision that is not whole.
bool Follows(const std::vector<events::Event>& begun, const std::optional<events::Cause>& cause) {
  if (begun.empty()) return !cause || cause->n == 1;
  if (!cause) return false;
  events::Cause expected = *begun.back().view().cause;
  ++expected.n;
  return *cause == expected;
}

// As the log stores it: where it stands says the rest.
events::EventView ForLog(const events::EventView& event) {
  events::EventView out = event;
  out.source = {};
  out.position.reset();
  out.streamversion.reset();
  return out;
}

// Brings a shard up to its own topic.
class Rebuild {
 public:
  Rebuild(Shard* shard, Evolver* evolver, bus::Subscriber* transport, const RunnerOptions& input,
          const std::function<void(uint64_t)>& progress)
      : shard_(shard),
        log_(shard->log()),
        evolver_(evolver),
        decider_(dynamic_cast<Decider*>(evolver)),
        transport_(transport),
        input_(input),
        progress_(progress) {}

  // `position` of the event in the log of its owners. False when the log has another event there.
  Result<bool> Take(const std::string& topic, const events::EventView& event, uint64_t position) {
    if (position < log_->size()) return IsSame(topic, event, position);
    const auto& cause = event.cause;
    if (!Follows(decision_, cause)) {
      return Fail(ErrorClass::kCorrupt,
                  topic + " breaks off a decision at position " + std::to_string(position),
                  "restore the topic from a backup");
    }
    decision_.emplace_back(event);
    if (cause && cause->n < cause->m) return true;
    for (const events::Event& one : decision_) {
      const events::EventView stored = ForLog(one.view());
      LEAT_ASSIGN(const uint64_t at, log_->Add(stored.subject, stored));
      LEAT_TRY(evolver_->Evolve(&shard_->state(), stored, at));
      shard_->MarkStaged();
    }
    decision_.clear();
    if (cause && cause->topic == input_.topic) applied_ = cause->offset + 1;
    if (shard_->StagedBytes() >= kCommitBytes) LEAT_TRY(Commit());
    if (progress_) progress_(position + 1);
    return true;
  }

  Status Finish() {
    if (!decision_.empty()) LEAT_TRY(FinishDecision());
    LEAT_TRY(FinishGroup());
    return Commit();
  }

  // Whether what was taken ends with a whole decision.
  bool whole() const { return decision_.empty(); }

  Status Commit() {
    if (applied_ > 0) {
      LEAT_TRY(FollowInput(applied_));
      shard_->SetInput(input_.topic, input_.partition, input_position_, &input_window_);
    }
    return shard_->HasStaged() ? shard_->Commit(true) : Status();
  }

 private:
  // The end of a log whose owner died before it was published is not there; what is there must be
  // the same.
  Result<bool> IsSame(const std::string& topic, const events::EventView& event, uint64_t position) {
    if (!cursor_) cursor_ = log_->Read(position);
    if (cursor_->position() != position) cursor_->Seek(position);
    eventstore::LogEvent stored;
    LEAT_ASSIGN(const bool found, cursor_->Next(&stored));
    if (!found || stored.purged) return true;
    LEAT_ASSIGN(const auto own, stored.Decode());
    if (own.type == event.type && own.data == event.data && own.subject == event.subject &&
        events::EventId(own) == events::EventId(event)) {
      return true;
    }
    core::LogWarning(shard_->name(), "its log has another event than " + topic + " at position " +
                                         std::to_string(position) +
                                         ": another owner went on from an earlier state");
    return false;
  }

  // Decides an input of which a part came out before, and stages all of it.
  Status FinishDecision() {
    const events::Cause cause = *decision_.front().view().cause;
    LEAT_ASSERT(decider_ != nullptr);  // only decisions have a cause
    LEAT_ASSIGN(const events::Event event, ReadOne(transport_, input_, cause.offset));
    if (log_->StagedBytes() > 0) LEAT_TRY(Commit());
    Decision decision;
    LEAT_TRY(decider_->Decide(shard_->state(), *log_, event.view(), &decision));
    bool same = decision.entries().size() == cause.m && decision_.size() <= cause.m;
    for (size_t i = 0; same && i < decision_.size(); ++i) {
      const Decision::Entry& entry = decision.entries()[i];
      const events::EventView& view = decision_[i].view();
      same = entry.type == view.type && entry.stream == view.subject &&
             entry.key == view.partitionkey && entry.time_us == view.time_us &&
             (entry.id.empty() || entry.id == view.id) && entry.data == view.data;
      events::EventView derived;
      derived.cause = view.cause;
      if (entry.id.empty() && !view.id.empty()) same &= view.id == events::EventId(derived);
    }
    if (!same) {
      return Fail(ErrorClass::kUnsupported,
                  shard_->name() + ": the decision on " + input_.topic + "@" +
                      std::to_string(cause.offset) + " differs from what was published of it",
                  "run the version of leat that published it");
    }
    const events::Cause own{input_.topic, input_.partition, cause.offset, 0, 0};
    LEAT_TRY(StageDecision(shard_, evolver_, decision, &own));
    applied_ = cause.offset + 1;
    decision_.clear();
    return {};
  }

  // Of inputs that are decided together all were there before anything of them was published: what was not published is decided
  // now. Until then nothing else may be decided.
  Status FinishGroup() {
    if (decider_ == nullptr || input_.topic.empty()) return {};
    if (applied_ == 0) {  // nothing was taken
      LEAT_ASSIGN(const InputPosition known, shard_->Input(input_.topic, input_.partition));
      if (!known.continues) return {};
    }
    LEAT_TRY(FollowInput(applied_));
    while (input_position_.continues) {
      LEAT_TRY(FollowInput(input_position_.next + 1, [this](const bus::Message& message, const Admission& admission) {
        return DecideRest(message, admission);
      }));
      applied_ = input_position_.next;
    }
    return {};
  }

  Status DecideRest(const bus::Message& message, const Admission& admission) {
    if (!previous_.view().type.empty() && !decider_->Continued(previous_.view(), message.event)) {
      return Fail(ErrorClass::kCorrupt,
                  input_.topic + " breaks off at offset " + std::to_string(message.offset) +
                      " what a part was published of",
                  "restore the topic from a backup");
    }
    Decision decision;
    const Status status = decider_->Decide(shard_->state(), *log_, message.event, &decision);
    if (IsToCome(admission, status)) return {};
    LEAT_TRY(status);
    const events::Cause own{input_.topic, input_.partition, message.offset, 0, 0};
    LEAT_TRY(StageDecision(shard_, evolver_, decision, &own));
    Applied(message.event);
    return {};
  }

  void Applied(const events::EventView& event) {
    input_position_.continues = decider_ != nullptr && decider_->Continues(event);
    previous_ = input_position_.continues ? events::Event(event) : events::Event();
  }

  // A cause names an offset of the input; what counts behind it depends on all that came before. `decide` is called for what
  // counts; without it, that was applied.
  Status FollowInput(uint64_t to,
                     const std::function<Status(const bus::Message&, const Admission&)>& decide = {}) {
    if (input_subscription_ == nullptr) {
      LEAT_ASSIGN(input_position_, shard_->Input(input_.topic, input_.partition));
      LEAT_TRY(shard_->ReadWindow(input_.topic, input_.partition, &input_window_));
      LEAT_ASSIGN(const auto end, transport_->End(input_.topic, input_.partition));
      input_position_.incarnation = end.incarnation;
      LEAT_ASSIGN(input_subscription_,
                  transport_->Subscribe(input_.topic, input_.partition, input_position_.next));
    }
    bus::MessageBatch batch;
    auto deadline = std::chrono::steady_clock::now() + kReadBackMax;
    while (input_position_.next < to) {
      bus::PollLimits limits;
      limits.messages_max = std::min<uint64_t>(limits.messages_max, to - input_position_.next);
      LEAT_TRY(input_subscription_->Poll(limits, &batch));
      const auto now = std::chrono::steady_clock::now();
      if (!batch.messages.empty()) deadline = now + kReadBackMax;
      if (now > deadline) {
        return Fail(ErrorClass::kConflict,
                    input_.topic + " ends before offset " + std::to_string(to) +
                        ", of which decisions were published",
                    "restore the topic from a backup");
      }
      for (const bus::Message& message : batch.messages) {
        if (message.offset >= to) {
          // Not decided yet: a poll brings it where offsets before it are vacant.
          input_position_.next = to;
          input_subscription_->Seek(to);
          break;
        }
        LEAT_ASSIGN(const Admission admission,
                    Admit(input_.topic, message, &input_position_, &input_window_));
        if (!admission.counts()) continue;
        if (decide) {
          LEAT_TRY(decide(message, admission));
        } else {
          Applied(message.event);
        }
      }
    }
    return {};
  }

  Shard* const shard_;
  eventstore::Log* const log_;
  Evolver* const evolver_;
  Decider* const decider_;  // the same; null: it decides on no topic
  bus::Subscriber* const transport_;
  const RunnerOptions& input_;
  const std::function<void(uint64_t)> progress_;
  std::vector<events::Event> decision_;  // read, and not whole yet
  uint64_t applied_ = 0;                 // offset behind the newest cause; 0: there was none
  std::optional<eventstore::LogCursor> cursor_;  // of what is checked
  InputPosition input_position_;
  events::Event previous_;  // of the input, while it continues
  Window input_window_;
  std::unique_ptr<bus::Subscription> input_subscription_;
};

}  // namespace

namespace {

// From where a shard's own topic is read again, up to its end now: what lies before that is in the
// log. `rows` of an interrupted rebuild are there afterwards.
Result<InputPosition> PrepareToRead(Shard* shard, Evolver* evolver, bus::Transport* transport,
                                    const std::string& own_topic, uint32_t own_partition,
                                    const RunnerOptions& input, bus::PartitionEnd* end,
                                    Window* window) {
  LEAT_TRY(shard->Abandon());
  LEAT_ASSIGN(const bool rebuilding, shard->Rebuilding());
  if (rebuilding) LEAT_TRY(RebuildFromLog(shard, evolver, input, 0, nullptr));
  LEAT_ASSIGN(InputPosition read, shard->Input(own_topic, own_partition));
  LEAT_ASSIGN(*end, EndOf(transport, own_topic, own_partition, read.next));
  if (read.next > end->offset || read.next_position > shard->log()->size() ||
      (read.incarnation != 0 && end->incarnation != 0 && read.incarnation != end->incarnation)) {
    read = {};
    shard->ForgetInput(own_topic, own_partition);
  } else {
    LEAT_TRY(shard->ReadWindow(own_topic, own_partition, window));
  }
  read.incarnation = end->incarnation;
  return read;
}

// An owner wrote it whose claim is not before it: the topic has lost its end since the position was kept, and has another one.
bool IsOfEpochUnread(const bus::Message& message, const InputPosition& read) {
  return message.problem.empty() && message.event.position &&
         EpochOf(message.event.source) > read.epoch;
}

// Of what counts. What strangers wrote while nobody owned the partition is a part of its owners' log from then on.
Result<bool> TakeOf(Rebuild* rebuild, const std::string& own_topic, uint32_t own_partition, const bus::Message& message,
                    const Admission& admission, uint64_t position) {
  auto same = rebuild->Take(own_topic, message.event, position);
  if (same || admission.vouched || same.error().Retryable()) return same;
  return Fail(same.error().error_class,
              own_topic + "/" + std::to_string(own_partition) + "@" + std::to_string(message.offset) +
                  " is a stranger's from before anybody owned the partition, and no part of an owner's log: " +
                  same.error().message,
              "make the topic anew, or use another one (topics.prefix)");
}

std::unexpected<Error> ReadAnew(Shard* shard, const std::string& own_topic,
                                uint32_t own_partition) {
  if (auto forgotten = shard->KeepInput(own_topic, own_partition, {}); !forgotten) {
    return std::unexpected(forgotten.error());
  }
  return Fail(ErrorClass::kUnavailable,
              own_topic + " is not what it was when it was read last: it has lost its end",
              "it is read from its beginning");
}

}  // namespace

Result<bool> FollowTopic(const std::stop_token& stop, Shard* shard, Evolver* evolver,
                         bus::Transport* transport, const std::string& own_topic,
                         uint32_t own_partition, const RunnerOptions& input,
                         RunnerStatus* status) {
  bus::PartitionEnd end;
  Window window;
  LEAT_ASSIGN(InputPosition read, PrepareToRead(shard, evolver, transport, own_topic,
                                                own_partition, input, &end, &window));
  LEAT_ASSIGN(auto subscription, transport->Subscribe(own_topic, own_partition, read.next));
  std::stop_callback wake(stop, [&] { subscription->Wake(); });
  Rebuild rebuild(shard, evolver, transport, input, nullptr);
  const bool anew = read.next == 0;
  InputPosition whole = read;  // behind the newest whole decision
  uint64_t committed = read.next;
  bus::MessageBatch batch;
  while (!stop.stop_requested()) {
    LEAT_TRY(PollWithRetry(stop, shard->name(), subscription.get(), {}, &batch));
    for (const bus::Message& message : batch.messages) {
      const uint64_t position = read.next_position;
      LEAT_ASSIGN(const Admission admission, Admit(own_topic, message, &read, &window));
      if (!anew && IsOfEpochUnread(message, read)) return ReadAnew(shard, own_topic, own_partition);
      if (admission.counts()) {
        LEAT_ASSIGN(const bool same,
                    TakeOf(&rebuild, own_topic, own_partition, message, admission, position));
        if (!same) return false;
      }
      if (rebuild.whole()) whole = read;
    }
    const bool more = batch.messages.size() == bus::PollLimits().messages_max;
    if (more || whole.next == committed) continue;
    // What the window gained lies before `whole`: events of nobody's are no part of a decision.
    shard->SetInput(own_topic, own_partition, whole, &window);
    LEAT_TRY(Retry(stop, shard->name(), [&] { return rebuild.Commit(); }));
    committed = whole.next;
    status->Advance(shard->log()->size());
  }
  return true;
}

Result<std::optional<Ownership>> ClaimTopic(const std::stop_token& stop, Shard* shard,
                                            Evolver* evolver, bus::Transport* transport,
                                            const std::string& own_topic, uint32_t own_partition,
                                            const RunnerOptions& input,
                                            const std::function<void(uint64_t)>& progress) {
  bus::PartitionEnd end;
  Window window;
  LEAT_ASSIGN(InputPosition read, PrepareToRead(shard, evolver, transport, own_topic,
                                                own_partition, input, &end, &window));
  LEAT_ASSIGN(auto subscription, transport->Subscribe(own_topic, own_partition, read.next));
  Rebuild rebuild(shard, evolver, transport, input, progress);
  const std::string instance = NewInstance();
  Ownership ownership;
  const bool anew = read.next == 0;
  bool claimed = false;
  bus::MessageBatch batch;
  auto deadline = std::chrono::steady_clock::now() + kReadBackMax;  // of the next progress
  auto quiet = std::chrono::steady_clock::now() + kQuiet;
  for (;;) {
    if (stop.stop_requested()) {
      return Fail(ErrorClass::kUnavailable, "claiming " + own_topic + " was given up");
    }
    // The last offsets may be vacant, which not every subscription tells. What is not read yet is read
    // before the claim is: one that comes behind another's of the same epoch counts for nothing.
    if (!claimed && (read.next >= end.offset || std::chrono::steady_clock::now() > quiet)) {
      ownership.epoch = read.epoch + 1;
      LEAT_TRY(transport->PublishTo(own_topic, own_partition,
                                    {MakeClaim(shard->name(), ownership.epoch, instance)}));
      claimed = true;
      deadline = std::chrono::steady_clock::now() + kReadBackMax;
    }
    if (auto polled = subscription->Poll({}, &batch); !polled && !polled.error().Retryable()) {
      return std::unexpected(polled.error());
    }
    const auto now = std::chrono::steady_clock::now();
    if (!batch.messages.empty()) {
      deadline = now + kReadBackMax;
      quiet = now + kQuiet;
    }
    if (now > deadline) {
      return Fail(ErrorClass::kUnavailable, own_topic + " cannot be read to its end, nothing comes",
                  "try again");
    }
    for (const bus::Message& message : batch.messages) {
      const uint64_t position = read.next_position;
      const bool is_claim =
          message.event.type == events::kShardClaimed && message.offset >= read.next;
      const uint64_t epoch_before = read.epoch;
      LEAT_ASSIGN(const Admission admission, Admit(own_topic, message, &read, &window));
      if (!anew && IsOfEpochUnread(message, read)) return ReadAnew(shard, own_topic, own_partition);
      if (admission.counts()) {
        LEAT_ASSIGN(const bool same,
                    TakeOf(&rebuild, own_topic, own_partition, message, admission, position));
        if (!same) return std::nullopt;
      }
      if (!is_claim || !claimed) continue;
      LEAT_ASSIGN(const Claim claim, ReadClaim(message.event));
      if (claim.instance == instance && read.epoch == ownership.epoch &&
          epoch_before < ownership.epoch) {
        LEAT_TRY(rebuild.Finish());
        shard->SetInput(own_topic, own_partition, read, &window);
        LEAT_TRY(shard->Commit(true));
        ownership.read = read;
        return ownership;
      }
      if (read.epoch >= ownership.epoch) {
        return Fail(ErrorClass::kConflict,
                    "another owner claims " + own_topic + " at the same time", "try again");
      }
    }
    PassVacant(batch, &read);
  }
}

Relay::Relay(const Shard* shard, bus::Transport* transport, std::string topic, uint32_t partition,
             Ownership ownership)
    : shard_(shard),
      transport_(transport),
      topic_(std::move(topic)),
      partition_(partition),
      epoch_(ownership.epoch),
      source_(OwnedSource(shard->name(), shard->log()->incarnation(), ownership.epoch)),
      read_(ownership.read),
      kept_(ownership.read.next),
      published_(ownership.read.next_position) {}

Relay::~Relay() = default;

void Relay::Stop() {
  thread_.request_stop();
  if (thread_.joinable()) thread_.join();
}

Status Relay::Start() {
  LEAT_ASSERT(published_ <= shard_->log()->size());  // ClaimTopic has seen to it
  read_to_.store(read_.next, std::memory_order_release);
  status_.Advance(published_);
  thread_ = std::jthread([this](std::stop_token stop) {
    auto status = Run(stop);
    if (!status) core::LogError("relay " + topic_, "stopped: " + status.error().Text());
    status_.Stop(std::move(status));
  });
  return {};
}

Status Relay::Run(std::stop_token stop) {
  const eventstore::Log& log = *shard_->log();
  std::stop_callback wake(stop, [&] { log.Wake(); });
  LEAT_ASSIGN(auto subscription, transport_->Subscribe(topic_, partition_, read_.next));
  auto cursor = log.Read(published_);
  auto last_progress = std::chrono::steady_clock::now();
  auto keep_again = last_progress + kKeepInterval;
  while (!stop.stop_requested()) {
    const bool behind = read_.next_position < published_;  // published, and not read back yet
    const bool more = log.WaitFor(published_, behind ? std::chrono::milliseconds(0) : kIdle);
    const auto step = [&]() -> Status {
      if (more) LEAT_TRY(PublishNext(&cursor));
      return ReadBack(subscription.get(),
                      behind && !more ? kBehind : std::chrono::milliseconds(0));
    };
    const uint64_t before = read_.next_position;
    auto status = step();
    if (!status && status.error().Retryable()) {
      // What came of it is for the topic to tell: whatever is not there is published again, what is
      // there twice counts once.
      core::LogWarning("relay " + topic_, "tried again: " + status.error().Text());
      status = Retry(stop, "relay " + topic_, [&] { return ReadBackAll(stop, subscription.get()); });
      published_ = read_.next_position;
    }
    LEAT_TRY(status);
    auto now = std::chrono::steady_clock::now();
    if (!behind || read_.next_position > before) last_progress = now;
    if (now - last_progress > kReadBackMax) {
      // A transport that is away brings nothing; one that answers, and brings nothing even then, has lost it.
      LEAT_TRY(Retry(stop, "relay " + topic_, [&] { return ReadBackAll(stop, subscription.get()); }));
      if (read_.next_position == before && !stop.stop_requested()) return Lost();
      now = last_progress = std::chrono::steady_clock::now();
    }
    if (now >= keep_again) {
      KeepPosition();
      keep_again = now + kKeepInterval;
    }
  }
  KeepPosition();
  return {};
}

Status Relay::ReadBackAll(const std::stop_token& stop, bus::Subscription* subscription) {
  LEAT_ASSIGN(const auto end, EndOf(transport_, topic_, partition_, read_.next));
  if (end.offset < read_.next) return Lost();
  auto quiet = std::chrono::steady_clock::now() + kQuiet;
  while (read_.next < end.offset && !stop.stop_requested() &&
         std::chrono::steady_clock::now() < quiet) {
    const uint64_t next = read_.next;
    LEAT_TRY(ReadBack(subscription, kIdle));
    if (read_.next > next) quiet = std::chrono::steady_clock::now() + kQuiet;
  }
  return {};
}

// All before it that counts is in the log, synced: it was before it was published.
void Relay::KeepPosition() {
  if (read_.next == kept_) return;
  const auto kept = shard_->KeepInput(topic_, partition_, read_);
  if (kept) kept_ = read_.next;
  // Only a later claim takes longer; what is wrong with the disk its writer will meet.
  else core::Log(core::LogLevel::kDebug, "relay " + topic_, kept.error().Text());
}

std::unexpected<Error> Relay::Lost() {
  if (auto forgotten = shard_->KeepInput(topic_, partition_, {}); !forgotten) {
    core::LogWarning("relay " + topic_, forgotten.error().Text());
  }
  return Fail(ErrorClass::kConflict, topic_ + " has lost what it had confirmed",
              "what it lacks is published again when its partition is claimed anew");
}

Status Relay::PublishNext(eventstore::LogCursor* cursor) {
  cursor->Seek(published_);
  eventstore::LogEvent event;
  std::vector<events::Event> batch;
  size_t bytes = 0;
  bool whole = true;  // the batch ends with a decision
  while (bytes < kBatchBytesMax || !whole) {
    LEAT_ASSIGN(const bool more, cursor->Next(&event));
    if (!more) break;
    LEAT_ASSIGN(auto view, event.Decode());
    view.source = source_;
    view.position = event.position;
    batch.emplace_back(view);
    bytes += event.envelope.size();
    whole = !view.cause || view.cause->n == view.cause->m;
  }
  if (batch.empty()) return {};
  LEAT_TRY(transport_->PublishTo(topic_, partition_, batch));
  published_ += batch.size();
  return {};
}

Status Relay::ReadBack(bus::Subscription* subscription, std::chrono::milliseconds timeout) {
  bus::PollLimits limits;
  limits.timeout = timeout;
  bus::MessageBatch batch;
  // All that is there: whoever waits for its own to be there waits no longer than it takes, and a claim after a crash finds
  // little that is not kept.
  uint64_t before;
  do {
    before = read_.next;
    LEAT_TRY(subscription->Poll(limits, &batch));
    for (const bus::Message& message : batch.messages) {
      LEAT_TRY(Admit(topic_, message, &read_, nullptr));
      if (read_.epoch != epoch_) {
        return Fail(ErrorClass::kConflict,
                    "another owner has taken over partition " + std::to_string(partition_) +
                        " of " + topic_ + " with epoch " + std::to_string(read_.epoch),
                    "nothing is lost: it goes on from what is in the topic");
      }
    }
    PassVacant(batch, &read_);
    if (read_.next == before) return {};
    read_to_.store(read_.next, std::memory_order_release);
    status_.Advance(read_.next_position);
    limits.timeout = std::chrono::milliseconds(0);
  } while (read_.next_position < published_);
  return {};
}

}  // namespace leat::runtime
