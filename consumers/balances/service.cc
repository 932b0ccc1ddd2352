#include "consumers/balances/service.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/bytes.h"
#include "core/log.h"

namespace leat::balances {
namespace {

std::string VersionPath(const std::string& path, uint64_t number) {
  return path + "/" + std::to_string(number);
}

uint64_t CurrentVersion(const std::string& path) {
  std::ifstream in(path + "/current");
  std::string text;
  in >> text;
  const auto number = core::ParseUint64(text);
  return number ? *number : 1;
}

Status WriteCurrentVersion(const std::string& path, uint64_t number) {
  const std::string temporary = path + "/current.tmp";
  {
    std::ofstream out(temporary, std::ios::trunc);
    out << number << "\n";
    out.flush();
    if (!out) return Fail(ErrorClass::kExhausted, "writing " + temporary, "free some disk space");
  }
  std::error_code error;
  std::filesystem::rename(temporary, path + "/current", error);
  if (error) return Fail(ErrorClass::kInternal, path + "/current: " + error.message());
  return {};
}

std::unexpected<Error> GivenUp() {
  return Fail(ErrorClass::kUnavailable,
              "the rebuild was given up: its partition is another process's now",
              "ask again, it goes to the new owner");
}

// Every row of two versions at the same position.
Status Compare(const runtime::View& a, const runtime::View& b, const std::atomic<bool>& given_up,
               RebuildReport* report) {
  const auto left = a.Iterate({}, true);
  const auto right = b.Iterate({}, true);
  left->SeekToFirst();
  right->SeekToFirst();
  for (; left->Valid() && right->Valid(); left->Next(), right->Next()) {
    if (left->key() != right->key() || left->value() != right->value()) break;
    ++report->rows;
    if (given_up) return GivenUp();
  }
  LEAT_TRY(left->status());
  LEAT_TRY(right->status());
  report->identical = !left->Valid() && !right->Valid();
  if (!report->identical) {
    report->difference = "live " + (left->Valid() ? core::ToHex(left->key()) : "ends") +
                         ", rebuilt " + (right->Valid() ? core::ToHex(right->key()) : "ends");
  }
  return {};
}

}  // namespace

// The members are destroyed from the last to the first: the thread, then what it writes.
struct Service::Version {
  uint64_t number = 0;
  std::string path;
  bool obsolete = false;
  std::unique_ptr<runtime::Shard> shard;
  Balances projection;
  std::unique_ptr<runtime::ProjectionRunner> runner;

  ~Version() {
    runner.reset();
    shard.reset();
    std::error_code ignored;
    if (obsolete) std::filesystem::remove_all(path, ignored);
  }
};

Result<std::shared_ptr<Service::Version>> Service::OpenVersion(uint64_t number,
                                                               uint64_t stop_at) const {
  auto version = std::make_shared<Version>();
  version->number = number;
  version->path = VersionPath(options_.path, number);
  runtime::ShardOptions options;
  options.path = version->path;
  options.name = "balances-" + std::to_string(options_.partition);
  LEAT_ASSIGN(version->shard, runtime::Shard::Open(options));
  runtime::RunnerOptions input;
  input.topic = options_.topic;
  input.partition = options_.partition;
  input.stop_at = stop_at;
  input.commit_bytes = 16u << 20;  // large sorted batches cost the memtable least
  version->runner = std::make_unique<runtime::ProjectionRunner>(
      version->shard.get(), &version->projection, transport_, input);
  return version;
}

Result<std::unique_ptr<Service>> Service::Open(const ServiceOptions& options,
                                               bus::Transport* transport) {
  std::unique_ptr<Service> service(new Service(options, transport));
  const std::string& path = options.path;
  const uint64_t current = CurrentVersion(path);
  LEAT_ASSIGN(service->live_, service->OpenVersion(current, UINT64_MAX));
  // What an interrupted rebuild left.
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
    if (entry.is_directory() && entry.path().filename() != std::to_string(current)) {
      std::filesystem::remove_all(entry.path(), error);
    }
  }
  return service;
}

Service::~Service() {
  // A view may keep the version for longer, but nothing may read the transport any more.
  if (live_ == nullptr) return;
  live_->runner->Stop();
}

Status Service::Own(const std::stop_token& stop) {
  {
    std::lock_guard moving(rebuilding_);
    LEAT_TRY(live()->runner->Start());
  }
  if (!stop.stop_possible()) return {};
  // Another process may have answered from more than there is here yet.
  LEAT_ASSIGN(const auto end, transport_->End(options_.topic, options_.partition));
  constexpr auto kStep = std::chrono::milliseconds(100);
  while (!WaitApplied(end.offset, kStep)) {
    LEAT_TRY(error());
    if (stop.stop_requested()) return Fail(ErrorClass::kUnavailable, "taking it over was given up");
  }
  return {};
}

void Service::Rest() {
  resting_ = true;
  std::lock_guard moving(rebuilding_);
  live()->runner->Stop();
  resting_ = false;
}

std::shared_ptr<Service::Version> Service::live() const {
  std::lock_guard lock(mutex_);
  return live_;
}

std::shared_ptr<const runtime::View> Service::view() const {
  struct Held {
    std::shared_ptr<Version> version;
    std::shared_ptr<const runtime::View> view;
  };
  auto held = std::make_shared<Held>();
  held->version = live();
  held->view = held->version->runner->view();
  const runtime::View* view = held->view.get();
  return std::shared_ptr<const runtime::View>(std::move(held), view);
}

uint64_t Service::generation() const {
  std::lock_guard lock(mutex_);
  return live_->number << 40 | live_->runner->generation();
}

uint64_t Service::applied() const { return live()->runner->status().applied(); }

bool Service::WaitApplied(uint64_t next, std::chrono::milliseconds timeout) const {
  return live()->runner->status().WaitApplied(next, timeout);
}

Status Service::error() const { return live()->runner->status().error(); }

Status Service::VerifyFiles() const { return live()->shard->database().VerifyChecksums(); }

Status Service::Flush() { return live()->shard->database().Flush(); }

Result<RebuildReport> Service::Rebuild(bool compare,
                                       const std::function<void(uint64_t, uint64_t)>& progress) {
  std::unique_lock only(rebuilding_, std::try_to_lock);
  if (!only.owns_lock()) {
    return Fail(ErrorClass::kConflict, "the balances are being rebuilt already", "wait for it");
  }
  const auto before = live();
  const auto reference = view();  // frozen: the live version goes on
  RebuildReport report;
  report.events = reference->input.next;
  const auto discard = [](const std::shared_ptr<Version>& version) { version->obsolete = true; };
  const auto wait = [&](const Version& version, uint64_t next) -> Status {
    while (!version.runner->status().WaitApplied(next, std::chrono::milliseconds(100))) {
      LEAT_TRY(version.runner->status().error());
      if (resting_) return GivenUp();
      if (progress) progress(version.runner->status().applied(), next);
    }
    return {};
  };
  if (compare) {
    LEAT_ASSIGN(auto candidate, OpenVersion(before->number + 1, report.events));
    discard(candidate);
    LEAT_TRY(candidate->runner->Start());
    LEAT_TRY(wait(*candidate, report.events));
    LEAT_TRY(Compare(*reference, *candidate->runner->view(), resting_, &report));
    if (!report.identical) return report;
    candidate->obsolete = false;  // it goes on as the new version
  }
  LEAT_ASSIGN(auto next, OpenVersion(before->number + 1, UINT64_MAX));
  discard(next);
  LEAT_TRY(next->runner->Start());
  LEAT_TRY(wait(*next, before->runner->status().applied()));
  LEAT_TRY(WriteCurrentVersion(options_.path, next->number));
  next->obsolete = false;
  {
    std::lock_guard lock(mutex_);
    live_ = next;
  }
  before->runner->Stop();
  before->obsolete = true;  // its folder goes with the last query that reads it
  return report;
}

}  // namespace leat::balances
