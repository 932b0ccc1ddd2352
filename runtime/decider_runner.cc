#include "runtime/decider_runner.h"

#include <set>
#include <utility>

#include "core/log.h"
#include "runtime/inbox.h"
#include "runtime/retry.h"

namespace leat::runtime {

bool RunnerStatus::WaitApplied(uint64_t next, std::chrono::milliseconds timeout) const {
  if (applied() >= next) return true;
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, timeout, [&] { return applied() >= next || stopped_; });
  return applied() >= next;
}

Status RunnerStatus::error() const {
  std::lock_guard lock(mutex_);
  return error_;
}

void RunnerStatus::Begin(uint64_t applied) {
  {
    std::lock_guard lock(mutex_);
    stopped_ = false;
    error_ = {};
  }
  Advance(applied);
}

void RunnerStatus::Advance(uint64_t applied) {
  {
    std::lock_guard lock(mutex_);
    applied_.store(applied, std::memory_order_release);
  }
  changed_.notify_all();
}

void RunnerStatus::Stop(Status error) {
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    error_ = std::move(error);
  }
  changed_.notify_all();
}

namespace {

events::EventView ViewOf(const Decision::Entry& entry, const events::Cause* cause) {
  events::EventView view;
  view.type = entry.type;
  view.time_us = entry.time_us;
  view.subject = entry.stream;
  view.partitionkey = entry.key;
  view.id = entry.id;
  view.data = entry.data;
  if (cause != nullptr) view.cause = *cause;
  return view;
}

// The input was recreated: its offsets mean other events now.
Status CheckIncarnation(const Shard& shard, const RunnerOptions& input,
                        const InputPosition& position, const bus::PartitionEnd& end) {
  const bool same = position.incarnation == 0 || end.incarnation == 0 ||
                    position.incarnation == end.incarnation;
  if (same && position.next <= end.offset) return {};
  return Fail(ErrorClass::kConflict,
              shard.name() + " has applied " + input.topic + "/" +
                  std::to_string(input.partition) + " up to " + std::to_string(position.next) +
                  ", and this topic is another one or shorter",
              "delete the folder " + shard.path() + " to decide anew from the topic");
}

}  // namespace

Status StageDecision(Shard* shard, Evolver* evolver, const Decision& decision,
                     const events::Cause* cause) {
  LEAT_TRY(shard->error());
  eventstore::Log* log = shard->log();
  const auto& entries = decision.entries();
  std::vector<events::EventView> views;
  views.reserve(entries.size());
  for (const Decision::Entry& entry : entries) {
    views.push_back(ViewOf(entry, cause));
    if (cause != nullptr) {
      views.back().cause->n = static_cast<uint32_t>(views.size());
      views.back().cause->m = static_cast<uint32_t>(entries.size());
    }
    views.back().source = log->source();
    LEAT_TRY(events::CheckLimits(views.back()));
  }
  const auto stage = [&](events::EventView* view) -> Status {
    LEAT_ASSIGN(const uint64_t version, log->StreamVersion(view->subject));
    view->streamversion = version + 1;
    LEAT_ASSIGN(const uint64_t position, log->Add(view->subject, *view));
    return evolver->Evolve(&shard->state(), *view, position);
  };
  for (events::EventView& view : views) {
    shard->MarkStaged();
    if (auto status = stage(&view); !status) {
      LEAT_TRY(shard->Abandon());
      return status;
    }
  }
  return {};
}

DeciderRunner::DeciderRunner(Shard* shard, Decider* decider, bus::Transport* input,
                             RunnerOptions options)
    : shard_(shard), decider_(decider), input_(input), options_(std::move(options)) {}

DeciderRunner::~DeciderRunner() = default;

void DeciderRunner::Stop() {
  thread_.request_stop();
  if (thread_.joinable()) thread_.join();
}

Status DeciderRunner::Start() {
  LEAT_TRY(shard_->Abandon());
  LEAT_ASSIGN(const InputPosition applied, shard_->Input(options_.topic, options_.partition));
  LEAT_ASSIGN(const auto end, EndOf(input_, options_.topic, options_.partition, applied.next));
  LEAT_ASSIGN(const bool rebuilding, shard_->Rebuilding());
  if (rebuilding) {
    // Deciding on rows of a part of the log would append again what the log has.
    core::LogWarning(shard_->name(), "a rebuild was interrupted: building anew from the log");
    LEAT_TRY(RebuildFromLog(shard_, decider_, options_, end.incarnation, nullptr));
  }
  LEAT_ASSIGN(position_, shard_->Input(options_.topic, options_.partition));
  LEAT_TRY(shard_->ReadWindow(options_.topic, options_.partition, &window_));
  LEAT_TRY(CheckIncarnation(*shard_, options_, position_, end));
  position_.incarnation = end.incarnation;
  status_.Begin(position_.next);
  thread_ = std::jthread([this](std::stop_token stop) {
    auto status = Run(stop);
    if (!status) core::LogError(shard_->name(), "stopped: " + status.error().Text());
    status_.Stop(std::move(status));
  });
  return {};
}

Status DeciderRunner::Run(std::stop_token stop) {
  LEAT_ASSIGN(auto subscription,
              input_->Subscribe(options_.topic, options_.partition, position_.next));
  std::stop_callback wake(stop, [&] { subscription->Wake(); });
  bus::MessageBatch batch;
  bus::PollLimits limits;
  Decision decision;
  // Offsets since the last commit that are not to be decided, or sent to the dead letters, when they are read again.
  std::set<uint64_t> passed;
  const auto commit = [&]() -> Status {
    shard_->SetInput(options_.topic, options_.partition, position_, &window_);
    // Events are synced before anybody sees them; a commit of positions alone need not be.
    LEAT_TRY(shard_->Commit(shard_->log()->StagedBytes() > 0));
    status_.Advance(position_.next);
    passed.erase(passed.begin(), passed.lower_bound(position_.next));
    return {};
  };
  bool continues = false;
  events::Event previous;  // while it continues; as these
  uint64_t begun = 0;      // offset of the first of what must be decided together
  while (!stop.stop_requested() && position_.next < options_.stop_at) {
    // What is staged is committed when the input pauses, or when it is enough: never wait with it, unless it is half of
    // something.
    const bool staged = status_.applied() < position_.next;
    limits.timeout = staged && !continues ? std::chrono::milliseconds(0)
                                          : bus::PollLimits().timeout;
    LEAT_TRY(PollWithRetry(stop, shard_->name(), subscription.get(), limits, &batch));
    for (const bus::Message& message : batch.messages) {
      if (message.offset >= options_.stop_at) {
        LEAT_TRY(PassVacant(options_.topic, message, &position_));
        break;
      }
      // What may wait for its other half for long holds up nothing that came before.
      const bool begins = decider_->Continues(message.event);
      if (!continues && shard_->log()->StagedBytes() > 0 &&
          (begins || decider_->NeedsLog(message.event))) {
        LEAT_TRY(commit());  // before the position moves behind this message
      }
      LEAT_ASSIGN(const Admission admission,
                  Admit(options_.topic, message, &position_, &window_));
      const auto reject = [&](const std::string& problem) {
        return Retry(stop, shard_->name(), [&] {
          return SendToDeadLetters(input_, options_.topic, options_.partition, message, problem);
        });
      };
      if (passed.contains(message.offset)) {
        if (!continues) LEAT_TRY(commit());  // behind it: it is not read a third time
        continue;
      }
      if (admission.verdict == Verdict::kRejected) {
        LEAT_TRY(reject(admission.problem));
        passed.insert(message.offset);
      }
      if (!admission.counts()) continue;
      // From the last commit on all comes again, without what is passed over.
      const auto pass = [&](uint64_t end) -> Status {
        for (uint64_t offset = continues ? begun : message.offset; offset < end; ++offset) {
          passed.insert(offset);
        }
        continues = false;
        LEAT_TRY(shard_->Abandon());
        LEAT_TRY(shard_->ReadInput(options_.topic, options_.partition, &position_, &window_));
        subscription->Seek(position_.next);
        batch.vacant_to = 0;
        return {};
      };
      if (continues && !decider_->Continued(previous.view(), message.event)) {
        core::LogWarning(shard_->name(), options_.topic + " breaks off at offset " +
                                             std::to_string(message.offset) + " what began at " +
                                             std::to_string(begun) + ": that is passed over");
        LEAT_TRY(pass(message.offset));
        break;
      }
      decision.Clear();
      const events::Cause cause{options_.topic, options_.partition, message.offset, 0, 0};
      Status status = continues || decider_->Begins(message.event)
                          ? decider_->Decide(shard_->state(), *shard_->log(), message.event, &decision)
                          : Invalid("what it continues is not before it");
      if (IsToCome(admission, status)) continue;
      const bool decided = status.has_value();
      if (decided) status = StageDecision(shard_, decider_, decision, &cause);
      if (IsAtFault(admission, status)) {
        LEAT_TRY(reject(status.error().Text()));
        if (!decided && !continues) {  // nothing is staged of it
          passed.insert(message.offset);
          continue;
        }
        LEAT_TRY(pass(message.offset + 1));
        break;
      }
      LEAT_TRY(status);
      if (!continues) begun = message.offset;
      continues = begins;
      if (continues) previous = events::Event(message.event);
      if (!continues && shard_->StagedBytes() >= options_.commit_bytes) LEAT_TRY(commit());
    }
    if (position_.next < options_.stop_at) PassVacant(batch, &position_);
    const bool more = batch.messages.size() == limits.messages_max;
    if (!more && !continues && status_.applied() < position_.next) LEAT_TRY(commit());
  }
  if (continues) return shard_->Abandon();
  if (status_.applied() < position_.next) LEAT_TRY(commit());
  return {};
}

Status RebuildFromLog(Shard* shard, Evolver* evolver, const RunnerOptions& input,
                      uint32_t input_incarnation, const std::function<void(uint64_t)>& progress) {
  LEAT_TRY(shard->Abandon());
  LEAT_ASSIGN(const InputPosition applied, shard->Input(input.topic, input.partition));
  LEAT_TRY(CheckIncarnation(*shard, input, applied, {UINT64_MAX, input_incarnation}));
  LEAT_TRY(shard->ClearRows());
  auto cursor = shard->log()->Read(0);
  eventstore::LogEvent event;
  constexpr size_t kCommitBytes = 4u << 20;
  for (;;) {
    LEAT_ASSIGN(const bool more, cursor.Next(&event));
    if (!more) break;
    if (event.purged) continue;
    LEAT_ASSIGN(const auto view, event.Decode());
    LEAT_TRY(evolver->Evolve(&shard->state(), view, event.position));
    if (shard->StagedBytes() >= kCommitBytes) LEAT_TRY(shard->Commit(false));
    if (progress) progress(event.position + 1);
  }
  shard->EndRebuild();
  return shard->Commit(true);
}

}  // namespace leat::runtime
