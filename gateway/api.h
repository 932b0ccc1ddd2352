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

#include "bus/bus.h"
#include "consumers/balances/service.h"
#include "core/result.h"
#include "gateway/http_server.h"
#include "producers/ingest/chain_feed.h"
#include "producers/ledger/service.h"
#include "runtime/request.h"

namespace leat::gateway {

// What the routes answer from; all of it must outlive the Api.
struct Services {
  bus::Transport* transport = nullptr;
  ingest::ChainFeed* feed = nullptr;
  ledger::Service* ledger = nullptr;
  balances::Service* balances = nullptr;
  // Waits until everything that was submitted to the feed can be read from its topic. Empty: that is so at once.
  std::function<bool(std::chrono::milliseconds)> blocks_published;
  // What stopped the feed; may be empty.
  std::function<Status()> feed_error;
  // Logs by the name that verification calls them.
  std::vector<std::pair<std::string, const eventstore::Log*>> logs;
  // Checks the checksums of every file.
  std::function<Status()> verify_files;
  // Who asks by topics; may be empty: then no route does.
  std::function<Result<runtime::Requester*>()> requester;
  std::string default_chain = "eip155:1";
  // The bearer token of the routes below /api/admin/; empty: no token is asked for (calls within the process).
  std::string admin_token;
};

// Thread-safe.
class Api {
 public:
  explicit Api(Services services);
  ~Api();

  // Routes one request. Never throws for bad input.
  void Handle(const HttpRequest& request, HttpResponse& response);
  // Whether a request may wait for the disk or another thread. `target` is the path with the query, as sent.
  static bool IsBlocking(std::string_view method, std::string_view target);
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
