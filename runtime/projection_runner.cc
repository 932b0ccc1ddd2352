#include "runtime/projection_runner.h"

#include <set>

#include "core/log.h"
#include "runtime/inbox.h"
#include "runtime/retry.h"

namespace leat::runtime {

ProjectionRunner::ProjectionRunner(Shard* shard, Projection* projection, bus::Transport* input,
                                   RunnerOptions options)
    : shard_(shard), projection_(projection), input_(input), options_(std::move(options)) {}

ProjectionRunner::~ProjectionRunner() = default;

void ProjectionRunner::Stop() {
  thread_.request_stop();
  if (thread_.joinable()) thread_.join();
}

Status ProjectionRunner::Start() {
  LEAT_TRY(shard_->Abandon());
  LEAT_ASSIGN(position_, shard_->Input(options_.topic, options_.partition));
  LEAT_TRY(shard_->ReadWindow(options_.topic, options_.partition, &window_));
  LEAT_ASSIGN(const auto end,
              EndOf(input_, options_.topic, options_.partition, position_.next));
  if (position_.next > end.offset ||
      (position_.incarnation != 0 && end.incarnation != 0 &&
       position_.incarnation != end.incarnation)) {
    core::LogWarning(shard_->name(), "topic " + options_.topic +
                                         " is another one than was applied: building anew");
    LEAT_TRY(shard_->ClearRows());
    position_ = {};
    window_ = {};
  }
  position_.incarnation = end.incarnation;
  LEAT_TRY(projection_->Load(shard_->state()));
  PublishView();
  status_.Begin(position_.next);
  thread_ = std::jthread([this](std::stop_token stop) {
    auto status = Run(stop);
    if (!status) core::LogError(shard_->name(), "stopped: " + status.error().Text());
    status_.Stop(std::move(status));
  });
  return {};
}

void ProjectionRunner::PublishView() {
  auto made = std::make_shared<View>();
  made->database = &shard_->database();
  made->snapshot = shard_->database().TakeSnapshot();
  made->input = position_;
  made->summary = projection_->Summary();
  {
    std::lock_guard lock(mutex_);
    view_ = std::move(made);
  }
  generation_.fetch_add(1, std::memory_order_release);
}

std::shared_ptr<const View> ProjectionRunner::view() const {
  std::lock_guard lock(mutex_);
  return view_;
}

Status ProjectionRunner::Commit() {
  shard_->SetInput(options_.topic, options_.partition, position_, &window_);
  // Not synced: after a power loss the rows and the position beside them are older together.
  LEAT_TRY(shard_->Commit(false));
  PublishView();
  status_.Advance(position_.next);
  return {};
}

Status ProjectionRunner::Run(std::stop_token stop) {
  LEAT_ASSIGN(auto subscription,
              input_->Subscribe(options_.topic, options_.partition, position_.next));
  std::stop_callback wake(stop, [&] { subscription->Wake(); });
  bus::MessageBatch batch;
  bus::PollLimits limits;
  // Offsets since the last commit that are not to be applied, or sent to the dead letters, when they are read again.
  std::set<uint64_t> passed;
  const auto commit = [&] {
    passed.erase(passed.begin(), passed.lower_bound(position_.next));
    return Commit();
  };
  while (!stop.stop_requested() && position_.next < options_.stop_at) {
    // What is staged is committed when the input pauses, or when it is enough: never wait with it.
    const bool staged = status_.applied() < position_.next;
    limits.timeout = staged ? std::chrono::milliseconds(0) : bus::PollLimits().timeout;
    LEAT_TRY(PollWithRetry(stop, shard_->name(), subscription.get(), limits, &batch));
    for (const bus::Message& message : batch.messages) {
      if (message.offset >= options_.stop_at) {
        LEAT_TRY(PassVacant(options_.topic, message, &position_));
        break;
      }
      LEAT_ASSIGN(const Admission admission,
                  Admit(options_.topic, message, &position_, &window_));
      const auto reject = [&](const std::string& problem) {
        return Retry(stop, shard_->name(), [&] {
          return SendToDeadLetters(input_, options_.topic, options_.partition, message, problem);
        });
      };
      if (passed.contains(message.offset)) {
        LEAT_TRY(commit());  // behind it: it is not read a third time
        continue;
      }
      if (admission.verdict == Verdict::kRejected) {
        LEAT_TRY(reject(admission.problem));
        passed.insert(message.offset);
      }
      if (!admission.counts()) continue;
      const auto status = projection_->Evolve(&shard_->state(), message.event, message.offset);
      if (IsAtFault(admission, status)) {
        LEAT_TRY(reject(status.error().Text()));
        // Part of it may be staged: from the last commit on all comes again, without it.
        passed.insert(message.offset);
        LEAT_TRY(shard_->Abandon());
        LEAT_TRY(shard_->ReadInput(options_.topic, options_.partition, &position_, &window_));
        LEAT_TRY(projection_->Load(shard_->state()));
        subscription->Seek(position_.next);
        batch.vacant_to = 0;
        break;
      }
      if (!IsToCome(admission, status)) LEAT_TRY(status);
      if (shard_->StagedBytes() >= options_.commit_bytes) LEAT_TRY(commit());
    }
    if (position_.next < options_.stop_at) PassVacant(batch, &position_);
    const bool more = batch.messages.size() == limits.messages_max;
    if (!more && status_.applied() < position_.next) LEAT_TRY(commit());
  }
  if (status_.applied() < position_.next) LEAT_TRY(commit());
  return {};
}

}  // namespace leat::runtime
