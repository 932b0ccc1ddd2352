#include "producers/ledger/service.h"

#include "core/log.h"

namespace leat::ledger {
namespace {

constexpr std::string_view kServiceName = "ledger";

}  // namespace

Result<std::unique_ptr<Service>> Service::Open(const ServiceOptions& options,
                                               bus::Transport* transport) {
  std::unique_ptr<Service> service(new Service(options, transport));
  runtime::ShardOptions shard;
  shard.path = options.path;
  shard.name = std::string(kServiceName) + "-0";
  shard.has_log = true;
  LEAT_ASSIGN(service->shard_, runtime::Shard::Open(shard));
  if (!options.relayed) return service;
  const std::string topic(kLedgerEntriesTopic);
  LEAT_TRY(transport->CreateTopic(topic, 1, {.owner = kServiceName}));
  if (options.observes) return service;
  LEAT_ASSIGN(const auto ownership, runtime::ClaimTopic(service->shard_.get(), &service->decider_, transport, topic, 0,
                                                        service->Input(), nullptr));
  service->relay_ = std::make_unique<runtime::Relay>(service->shard_.get(), transport, topic, 0, ownership);
  return service;
}

Service::~Service() {
  runner_.reset();
  relay_.reset();
}

bool Service::WaitPublished(std::chrono::milliseconds timeout) const {
  return relay_ == nullptr || relay_->status().WaitApplied(decided(), timeout);
}

Result<uint64_t> Service::PublishedEnd() const {
  if (!options_.relayed) return decided();
  LEAT_ASSIGN(const auto end, transport_->End(kLedgerEntriesTopic, 0));
  return end.offset;
}

runtime::RunnerOptions Service::Input() const {
  runtime::RunnerOptions input;
  input.topic = options_.input_topic;
  return input;
}

Status Service::Start() {
  if (options_.observes) return {};
  if (relay_ != nullptr) LEAT_TRY(relay_->Start());
  return StartRunner();
}

uint64_t Service::applied() const {
  std::lock_guard lock(mutex_);
  return runner_ == nullptr ? 0 : runner_->status().applied();
}

bool Service::WaitApplied(uint64_t next, std::chrono::milliseconds timeout) const {
  if (options_.observes) return true;  // what there is to wait for, others do
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
  std::lock_guard lock(mutex_);
  LEAT_TRY(rebuild_error_);
  if (runner_ != nullptr) LEAT_TRY(runner_->status().error());
  if (relay_ != nullptr) LEAT_TRY(relay_->status().error());
  return {};
}

Status Service::Rebuild(const std::function<void(uint64_t, uint64_t)>& progress) {
  std::shared_ptr<runtime::DeciderRunner> stopped;
  {
    std::lock_guard lock(mutex_);
    stopped = std::move(runner_);
  }
  if (stopped == nullptr) {
    return Fail(ErrorClass::kConflict, "the ledger is being rebuilt, or was not started");
  }
  // Whoever waits on it holds it for a moment; the shard is ours when its thread has ended.
  while (stopped.use_count() > 1) std::this_thread::yield();
  stopped.reset();
  Status rebuilt = RebuildRows(progress);
  if (rebuilt) return rebuilt;
  // Without rows the ledger cannot go on, and whoever waits for it must hear of it.
  std::lock_guard lock(mutex_);
  rebuild_error_ = std::unexpected(rebuilt.error().WithContext("rebuilding the ledger's rows"));
  return rebuild_error_;
}

Status Service::RebuildRows(const std::function<void(uint64_t, uint64_t)>& progress) {
  LEAT_ASSIGN(const auto end, transport_->End(options_.input_topic, 0));
  const uint64_t total = shard_->log()->size();
  LEAT_TRY(runtime::RebuildFromLog(shard_.get(), &decider_, Input(), end.incarnation,
                                   [&](uint64_t done) {
                                     if (progress) progress(done, total);
                                   }));
  return StartRunner();
}

Status Service::StartRunner() {
  auto runner = std::make_shared<runtime::DeciderRunner>(shard_.get(), &decider_, transport_,
                                                         Input());
  LEAT_TRY(runner->Start());
  std::lock_guard lock(mutex_);
  runner_ = std::move(runner);
  return {};
}

}  // namespace leat::ledger
