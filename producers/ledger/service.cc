#include "producers/ledger/service.h"

#include <thread>

#include "core/log.h"

namespace leat::ledger {

Result<std::unique_ptr<Service>> Service::Open(const ServiceOptions& options,
                                               bus::Transport* transport) {
  std::unique_ptr<Service> service(new Service(options, transport));
  runtime::OwnedShardOptions owned;
  owned.shard.path = options.path;
  owned.shard.name = "ledger-" + std::to_string(options.partition);
  owned.shard.has_log = true;
  owned.topic = kLedgerEntriesTopic;
  owned.partition = options.partition;
  owned.input = service->Input();
  owned.mounted = !options.relayed;
  LEAT_ASSIGN(service->owned_,
              runtime::OwnedShard::Open(owned, &service->decider_, transport));
  return service;
}

Service::~Service() { Rest(); }

runtime::RunnerOptions Service::Input() const {
  runtime::RunnerOptions input;
  input.topic = options_.input_topic;
  input.partition = options_.partition;
  return input;
}

uint64_t Service::decided() const {
  const auto now = owned_->shard();
  return now == nullptr ? 0 : now->log()->size();
}

bool Service::WaitPublished(std::chrono::milliseconds timeout) const {
  return owned_->WaitPublished(decided(), timeout);
}

Result<uint64_t> Service::PublishedEnd() const {
  if (!options_.relayed) return decided();
  LEAT_ASSIGN(const auto end, transport_->End(kLedgerEntriesTopic, options_.partition));
  return end.offset;
}

Status Service::VerifyFiles() const {
  const auto now = owned_->shard();
  return now == nullptr ? Status() : now->database().VerifyChecksums();
}

uint64_t Service::applied() const {
  std::lock_guard lock(mutex_);
  return runner_ == nullptr ? 0 : runner_->status().applied();
}

bool Service::WaitApplied(uint64_t next, std::chrono::milliseconds timeout) const {
  std::shared_ptr<runtime::DeciderRunner> runner;
  {
    std::lock_guard lock(mutex_);
    runner = runner_;
  }
  if (runner == nullptr) {
    std::this_thread::sleep_for(timeout);  // it is being rebuilt
    return false;
  }
  return runner->status().WaitApplied(next, timeout);
}

Status Service::error() const {
  LEAT_TRY(owned_->error());
  std::lock_guard lock(mutex_);
  LEAT_TRY(rebuild_error_);
  if (runner_ != nullptr) LEAT_TRY(runner_->status().error());
  return {};
}

runtime::Standing Service::standing() const {
  const uint64_t published = owned_->published();
  // Read before the offset: it holds all that was published by now, and not less.
  std::lock_guard lock(mutex_);
  standing_.epoch = owned_->epoch();
  if (runner_ == nullptr) return standing_;
  if (published >= sampled_size_) {
    standing_.done = sampled_applied_;
    standing_.published_end = options_.relayed ? owned_->published_end() : published;
    // Sampled in this order: the log holds all that was decided from what is applied.
    sampled_applied_ = runner_->status().applied();
    sampled_size_ = owned_->shard()->log()->size();
  }
  return standing_;
}

Status Service::Own(const std::stop_token& stop) {
  std::lock_guard moving(moving_);
  StopRunner();
  LEAT_TRY(owned_->Own(stop));
  auto started = StartRunner();
  // Its input is another one: that does not pass by itself.
  if (!started && started.error().error_class == ErrorClass::kConflict) {
    started.error().error_class = ErrorClass::kCorrupt;
  }
  return started;
}

Status Service::Follow() {
  std::lock_guard moving(moving_);
  StopRunner();
  return owned_->Follow();
}

void Service::Rest() {
  std::lock_guard moving(moving_);
  StopRunner();
  owned_->Rest();
}

Status Service::Rebuild(const std::function<void(uint64_t, uint64_t)>& progress) {
  std::unique_lock moving(moving_, std::try_to_lock);
  if (!moving.owns_lock() || !StopRunner()) {
    return Fail(ErrorClass::kConflict, "the ledger is being rebuilt, or is not this process's own");
  }
  Status rebuilt = RebuildRows(progress);
  if (rebuilt) return rebuilt;
  // Without rows the ledger cannot go on, and whoever waits for it must hear of it.
  std::lock_guard lock(mutex_);
  rebuild_error_ = std::unexpected(rebuilt.error().WithContext("rebuilding the ledger's rows"));
  return rebuild_error_;
}

Status Service::RebuildRows(const std::function<void(uint64_t, uint64_t)>& progress) {
  LEAT_ASSIGN(const auto end, transport_->End(options_.input_topic, options_.partition));
  const auto now = owned_->shard();
  const uint64_t total = now->log()->size();
  LEAT_TRY(runtime::RebuildFromLog(now.get(), &decider_, Input(), end.incarnation,
                                   [&](uint64_t done) {
                                     if (progress) progress(done, total);
                                   }));
  return StartRunner();
}

Status Service::StartRunner() {
  auto runner = std::make_shared<runtime::DeciderRunner>(owned_->shard().get(), &decider_,
                                                         transport_, Input());
  LEAT_TRY(runner->Start());
  std::lock_guard lock(mutex_);
  runner_ = std::move(runner);
  rebuild_error_ = {};
  standing_ = {};
  sampled_applied_ = sampled_size_ = 0;
  return {};
}

bool Service::StopRunner() {
  std::shared_ptr<runtime::DeciderRunner> stopped;
  {
    std::lock_guard lock(mutex_);
    stopped = std::move(runner_);
  }
  if (stopped == nullptr) return false;
  stopped->Stop();  // whoever waits on it may hold it for longer, and touches nothing else
  return true;
}

}  // namespace leat::ledger
