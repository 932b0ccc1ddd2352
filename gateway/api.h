// The routes: every question and command of Leat, the same over HTTP and from the command line.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bus/bus.h"
#include "consumers/balances/service.h"
#include "core/result.h"
#include "gateway/http_server.h"
#include "producers/ingest/service.h"
#include "producers/ledger/service.h"
#include "runtime/cluster.h"
#include "runtime/request.h"

namespace leat::gateway {

class Forwarder;

// What the routes answer from; all of it must outlive the Api.
struct Services {
  bus::Transport* transport = nullptr;
  // Of chain.blocks and ledger.entries: a chain's facts, postings and balances are in that of its id.
  uint32_t partitions = 1;
  // The parts of this process, by partition; empty where it does not have the role.
  std::vector<ingest::Service*> feeds;
  std::vector<ledger::Service*> ledgers;
  std::vector<balances::Service*> balances;
  // Whether this process is the one to ask about a partition of a role now; empty: it is, where it has the part.
  std::function<bool(std::string_view role, uint32_t partition)> owns;
  // Who else is there, and the way to ask them; null: there is nobody else.
  const runtime::Cluster* cluster = nullptr;
  Forwarder* forwarder = nullptr;
  // This process and the others, as they told.
  std::function<std::vector<runtime::InstanceStanding>()> instances;
  // What stopped a part; may be empty.
  std::function<Status()> error;
  // Logs by the name that verification calls them, kept by what holds them.
  std::function<std::vector<std::pair<std::string, std::shared_ptr<const eventstore::Log>>>()> logs;
  // Checks the checksums of every file.
  std::function<Status()> verify_files;
  // Who asks by topics; may be empty: then no route does.
  std::function<Result<runtime::Requester*>()> requester;
  std::string default_chain = "eip155:1";
  // The bearer token of the routes below /api/admin/; empty: no token is asked for (calls within the process).
  std::string admin_token;
};

inline constexpr std::string_view kIngestRole = "ingest";
inline constexpr std::string_view kLedgerRole = "ledger";
inline constexpr std::string_view kBalancesRole = "balances";

// Thread-safe.
class Api {
 public:
  explicit Api(Services services);
  ~Api();

  // Routes one request. Never throws for bad input.
  void Handle(const HttpRequest& request, HttpResponse& response);
  // Whether a request may wait for the disk or another thread. `target` is the path with the query, as sent.
  static bool IsBlocking(std::string_view method, std::string_view target);
  // For whoever runs the pipeline. Waits until the ledger, wherever it runs, has decided on all facts of a partition below an
  // offset: tells the offset behind what was decided. Errors: kUnavailable when that takes longer.
  Result<uint64_t> WaitDecided(uint32_t partition, uint64_t below,
                               std::chrono::milliseconds timeout) const;
  // The same for balances that reflect all postings below an offset.
  Status WaitBalances(uint32_t partition, uint64_t below, std::chrono::milliseconds timeout) const;
  static size_t BodyBytesMax(std::string_view method, std::string_view path);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The RFC 9457 answer to an error.
void SetError(const Error& error, HttpResponse* response);

// Roots noted outside, "LOG@SIZE:0xHASH" joined by ',': by log. Errors: kInvalid.
Result<std::map<std::string, eventstore::Log::NotedRoot>> ParseNotedRoots(std::string_view text);

// "%2F" and "+" of a query value or a path segment, decoded. Errors: kInvalid.
Result<std::string> PercentDecode(std::string_view text);
std::string PercentEncode(std::string_view text);

}  // namespace leat::gateway
