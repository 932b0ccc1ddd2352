#include "runtime/projection_runner.h"

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
      if (admission.verdict == Verdict::kRejected) {
        const auto reject = [&] {
          return SendToDeadLetters(input_, options_.topic, options_.partition, message, admission.problem);
        };
        LEAT_TRY(Retry(stop, shard_->name(), reject));
      }
      if (!admission.counts()) continue;
      LEAT_TRY(projection_->Evolve(&shard_->state(), message.event, message.offset));
      if (shard_->StagedBytes() >= options_.commit_bytes) LEAT_TRY(Commit());
    }
    if (position_.next < options_.stop_at) PassVacant(batch, &position_);
    const bool more = batch.messages.size() == limits.messages_max;
    if (!more && status_.applied() < position_.next) LEAT_TRY(Commit());
  }
  if (status_.applied() < position_.next) LEAT_TRY(Commit());
  return {};
}

}  // namespace leat::runtime
