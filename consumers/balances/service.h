// The balances projection as a part of a process: the live version, and new versions built beside it.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "bus/bus.h"
#include "consumers/balances/balances.h"
#include "runtime/projection_runner.h"
#include "runtime/role.h"
#include "runtime/shard.h"

namespace leat::balances {

struct RebuildReport {
  uint64_t events = 0;    // applied anew
  uint64_t rows = 0;      // compared; 0 when no comparison was asked for
  bool identical = false;
  std::string difference; // the first differing row, for people
};

struct ServiceOptions {
  std::string path;   // holds a folder for each version and the file `current`, which names the live one
  std::string topic;  // its input
  uint32_t partition = 0;
};

// Thread-safe once opened. The transport must outlive it. Views that it gave out may outlive it: they keep what they read.
class Service final : public runtime::Part {
 public:
  static Result<std::unique_ptr<Service>> Open(const ServiceOptions& options,
                                               bus::Transport* transport);
  ~Service() override;

  // A copy that others follow is as good as the owner's: it runs either way. With a stop that may be requested, returns when
  // all is applied that was there.
  Status Own(const std::stop_token& stop) override;
  Status Follow() override { return Own({}); }
  void Rest() override;
  runtime::Standing standing() const override { return {applied(), 0, 0}; }
  // The newest commit; keeps alive all it stands on.
  std::shared_ptr<const runtime::View> view() const;
  // Changes with every commit and every switch: as long as it does not, a view is still the newest.
  uint64_t generation() const;
  uint64_t applied() const;
  bool WaitApplied(uint64_t next, std::chrono::milliseconds timeout) const;
  Status error() const override;
  // Checks every file of the live version. Errors: kCorrupt.
  Status VerifyFiles() const;
  // Writes what is in memory to files, so that the next start has nothing to replay.
  Status Flush();

  // Builds a new version from the topic's beginning beside the live one, which goes on answering; then it takes over in
  // one switch. With `compare`, every row is compared with the live version's as of the same position first, and a
  // difference keeps the live one. One at a time: kConflict. Given up when the service is to rest: kUnavailable.
  Result<RebuildReport> Rebuild(bool compare,
                                const std::function<void(uint64_t, uint64_t)>& progress);

 private:
  struct Version;
  Service(ServiceOptions options, bus::Transport* transport)
      : options_(std::move(options)), transport_(transport) {}
  Result<std::shared_ptr<Version>> OpenVersion(uint64_t number, uint64_t stop_at) const;
  std::shared_ptr<Version> live() const;

  const ServiceOptions options_;
  bus::Transport* const transport_;
  mutable std::mutex mutex_;
  std::shared_ptr<Version> live_;  // guarded by mutex_
  std::mutex rebuilding_;
  std::atomic<bool> resting_ = false;  // a rebuild is to end
};

}  // namespace leat::balances
