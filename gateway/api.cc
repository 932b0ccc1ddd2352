#include "gateway/api.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <nlohmann/json.hpp>

#include "bus/partitioner.h"
#include "chain/v1/chain.pb.h"
#include "consumers/balances/queries.h"
#include "core/clock.h"
#include "core/log.h"
#include "events/codec.h"
#include "events/position.h"
#include "gateway/forwarder.h"
#include "gateway/event_reader.h"
#include "runtime/inbox.h"

namespace leat::gateway {
namespace {

using balances::AccountKey;
using balances::BlockRow;
using balances::Moment;
using balances::Queries;
using nlohmann::ordered_json;

constexpr std::string_view kBalancePrefix = "/api/balance/";
constexpr std::string_view kBlocksPrefix = "/api/blockchain/blocks/";
constexpr std::string_view kAdminPrefix = "/api/admin/";
constexpr unsigned kEtherDecimals = 18;
constexpr uint64_t kPageMax = 1000;
constexpr uint64_t kPageDefault = 100;
constexpr size_t kPageBytesMax = 8u << 20;  // of events; the step that reaches it is still given
constexpr int kPageStepsMax = 200;          // of an EventReader: some 100,000 events looked at
constexpr auto kWaitMax = std::chrono::milliseconds(5000);
constexpr auto kPublishedMax = std::chrono::milliseconds(60'000);
constexpr size_t kEventsBodyMax = 16u << 20;
constexpr size_t kAskBodyMax = 1u << 20;
constexpr auto kAskTimeoutMax = std::chrono::milliseconds(60'000);
constexpr size_t kBlocksBodyMax = 64u << 20;
constexpr std::string_view kJsonLines = "application/x-ndjson";

// ---- requests ---------------------------------------------------------------------------------------------------

class Params {
 public:
  static Result<Params> Parse(std::string_view query) {
    Params params;
    while (!query.empty()) {
      const size_t end = std::min(query.find('&'), query.size());
      const std::string_view pair = query.substr(0, end);
      query.remove_prefix(std::min(query.size(), end + 1));
      if (pair.empty()) continue;
      const size_t equals = std::min(pair.find('='), pair.size());
      LEAT_ASSIGN(std::string name, PercentDecode(pair.substr(0, equals)));
      LEAT_ASSIGN(std::string value,
                  PercentDecode(pair.substr(std::min(pair.size(), equals + 1))));
      params.values_[std::move(name)] = std::move(value);
    }
    return params;
  }
  // Only these parameters are known to the route.
  Status Allow(std::initializer_list<std::string_view> names) const {
    for (const auto& [name, value] : values_) {
      if (std::find(names.begin(), names.end(), name) != names.end()) continue;
      std::string known;
      for (const auto allowed : names) known += (known.empty() ? "" : ", ") + std::string(allowed);
      return Invalid("parameter \"" + name.substr(0, 64) + "\" is not known here",
                     known.empty() ? "this route takes none" : "this route takes " + known);
    }
    return {};
  }
  const std::string* Find(std::string_view name) const {
    const auto found = values_.find(name);
    return found == values_.end() ? nullptr : &found->second;
  }
  std::string Text(std::string_view name) const {
    const auto* value = Find(name);
    return value == nullptr ? std::string() : *value;
  }
  Result<std::optional<uint64_t>> Number(std::string_view name) const {
    const auto* value = Find(name);
    if (value == nullptr) return std::nullopt;
    auto number = core::ParseUint64(*value);
    if (!number) return std::unexpected(number.error().WithContext(name));
    return *number;
  }
  Result<uint64_t> Limit() const {
    LEAT_ASSIGN(const auto limit, Number("limit"));
    if (limit && (*limit == 0 || *limit > kPageMax)) {
      return Invalid("limit: " + std::to_string(*limit) + " is out of range",
                     "1 to " + std::to_string(kPageMax));
    }
    return limit.value_or(kPageDefault);
  }
  Result<bool> Flag(std::string_view name) const {
    const auto* value = Find(name);
    if (value == nullptr || *value == "false" || *value == "0") return false;
    if (*value == "true" || *value == "1" || value->empty()) return true;
    return Invalid(std::string(name) + ": \"" + value->substr(0, 32) + "\" is not true or false");
  }

 private:
  std::map<std::string, std::string, std::less<>> values_;
};

int StatusOf(ErrorClass error_class) {
  switch (error_class) {
    case ErrorClass::kInvalid: return 400;
    case ErrorClass::kNotFound: return 404;
    case ErrorClass::kConflict: return 409;
    case ErrorClass::kUnavailable: return 503;
    case ErrorClass::kExhausted: return 507;
    case ErrorClass::kUnsupported: return 501;
    default: return 500;
  }
}

// ---- answers ----------------------------------------------------------------------------------------------------

std::string_view CompletenessName(ledger::v1::Completeness completeness) {
  switch (completeness) {
    case ledger::v1::COMPLETENESS_EXACT: return "exact";
    case ledger::v1::COMPLETENESS_TOP_LEVEL: return "top_level";
    default: return "value_only";
  }
}

std::string_view HistoryName(ledger::v1::History history) {
  switch (history) {
    case ledger::v1::HISTORY_GENESIS: return "genesis";
    case ledger::v1::HISTORY_SNAPSHOT: return "snapshot";
    default: return "partial";
  }
}

std::string LegKindName(ledger::v1::LegKind kind) {
  std::string name = ledger::v1::LegKind_Name(kind).substr(4);  // without "LEG_"
  for (char& c : name) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  return name;
}

std::string BlockTime(const BlockRow& block) {
  return core::FormatTime(static_cast<int64_t>(block.closed.timestamp_s()) * 1'000'000);
}

// "as_of":{…} and "completeness":{…}, without a comma around them.
std::string DescribeMoment(const Moment& moment, uint32_t partition, uint32_t incarnation,
                           std::optional<uint64_t> inconsistent_since = {}) {
  std::string out = "\"as_of\":{\"position\":";
  if (moment.below == 0) {
    out += "null";
  } else {
    events::AppendJsonString(
        events::FormatPosition(ledger::kLedgerEntriesTopic, partition, moment.below - 1,
                               incarnation),
        &out);
  }
  if (moment.block) {
    const auto& closed = moment.block->closed;
    out += ",\"block_number\":" + std::to_string(closed.block_number()) + ",\"block_hash\":\"" +
           core::ToHex(closed.block_hash()) + "\",\"time\":\"" + BlockTime(*moment.block) + "\"}";
    out += ",\"completeness\":{\"value\":\"";
    out += CompletenessName(inconsistent_since ? ledger::v1::COMPLETENESS_VALUE_ONLY
                                               : closed.completeness());
    out += "\",\"history\":\"";
    out += HistoryName(closed.history());
    out += '"';
    if (closed.history() != ledger::v1::HISTORY_GENESIS) {
      out += ",\"since_block\":" + std::to_string(closed.since_block());
    }
    if (inconsistent_since) {
      out += ",\"inconsistent_since\":\"" +
             events::FormatPosition(ledger::kLedgerEntriesTopic, partition, *inconsistent_since,
                                    incarnation) +
             '"';
    }
    out += '}';
  } else {
    out += ",\"block_number\":null,\"block_hash\":null,\"time\":null}";
    out += ",\"completeness\":{\"value\":\"value_only\",\"history\":\"partial\"}";
  }
  return out;
}

ordered_json BlockJson(const BlockRow& block, std::string_view chain) {
  const auto& closed = block.closed;
  const auto decimal = [](std::string_view bytes) {
    const auto amount = Amount::FromBytes(bytes);
    return amount ? amount->ToDecimal() : std::string("0");
  };
  ordered_json out;
  out["chain"] = chain;
  out["number"] = closed.block_number();
  out["hash"] = core::ToHex(closed.block_hash());
  out["parent_hash"] = core::ToHex(closed.parent_hash());
  out["time"] = BlockTime(block);
  out["timestamp"] = closed.timestamp_s();
  out["miner"] = closed.miner().empty() ? ordered_json(nullptr)
                                        : ordered_json(core::ToHex(closed.miner()));
  out["transaction_count"] = closed.transaction_count();
  out["postings"] = closed.postings();
  out["gas_used"] = closed.gas_used();
  out["gas_limit"] = closed.gas_limit();
  out["difficulty"] = closed.has_difficulty() ? ordered_json(decimal(closed.difficulty()))
                                              : ordered_json(nullptr);
  out["total_difficulty"] = closed.total_difficulty().empty()
                                ? ordered_json(nullptr)
                                : ordered_json(decimal(closed.total_difficulty()));
  out["base_fee_per_gas"] = closed.has_base_fee_per_gas()
                                ? ordered_json(decimal(closed.base_fee_per_gas()))
                                : ordered_json(nullptr);
  out["state_root"] = closed.state_root().empty()
                          ? ordered_json(nullptr)
                          : ordered_json(core::ToHex(closed.state_root()));
  out["canonical"] = block.reopened_at == 0;
  out["synthetic"] = closed.synthetic();
  out["completeness"] = {{"value", CompletenessName(closed.completeness())},
                         {"history", HistoryName(closed.history())}};
  if (closed.history() != ledger::v1::HISTORY_GENESIS) {
    out["completeness"]["since_block"] = closed.since_block();
  }
  return out;
}

std::string NativeAsset(std::string_view chain) { return std::string(chain) + "/slip44:60"; }

// An address, plain or as CAIP-10, or "system:issuance|burn|opening".
struct AccountName {
  AccountKey key = AccountKey::Mirrored({});
  std::string text;
  std::string chain;  // of CAIP-10; else empty
};

Result<AccountName> ParseAccount(std::string_view text) {
  AccountName out;
  if (text.starts_with("system:")) {
    using ledger::v1::SystemAccount;
    const std::string_view name = text.substr(7);
    const auto account = name == "issuance"  ? ledger::v1::SYSTEM_ACCOUNT_ISSUANCE
                         : name == "burn"    ? ledger::v1::SYSTEM_ACCOUNT_BURN
                         : name == "opening" ? ledger::v1::SYSTEM_ACCOUNT_OPENING
                                             : ledger::v1::SYSTEM_ACCOUNT_NONE;
    if (account == ledger::v1::SYSTEM_ACCOUNT_NONE) {
      return Invalid("\"" + std::string(text.substr(0, 64)) + "\" is not a system account",
                     "system:issuance, system:burn or system:opening");
    }
    out.key = AccountKey::System(account);
    out.text = text;
    return out;
  }
  std::string_view address = text;
  if (const size_t colon = text.rfind(':'); colon != std::string_view::npos) {
    out.chain = text.substr(0, colon);
    LEAT_TRY(ingest::CheckChainId(out.chain));
    address = text.substr(colon + 1);
  }
  auto parsed = core::ParseAddress(address);
  if (!parsed) return std::unexpected(parsed.error().WithContext("address"));
  out.key = AccountKey::Mirrored(*parsed);
  out.text = parsed->Hex();
  return out;
}

}  // namespace

Result<std::string> PercentDecode(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  const auto digit = [](char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
  };
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i] == '+' ? ' ' : text[i]);
      continue;
    }
    const int high = i + 2 < text.size() ? digit(text[i + 1]) : -1;
    const int low = i + 2 < text.size() ? digit(text[i + 2]) : -1;
    if (high < 0 || low < 0) {
      return Invalid("\"" + std::string(text.substr(0, 64)) + "\" is not percent-encoded",
                     "write % as %25");
    }
    out.push_back(static_cast<char>(high << 4 | low));
    i += 2;
  }
  return out;
}

std::string PercentEncode(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                       (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' || c == '~';
    if (plain) {
      out.push_back(c);
    } else {
      std::string hex;
      core::AppendHex({&c, 1}, &hex);
      out += "%" + hex;
    }
  }
  return out;
}

Result<std::map<std::string, eventstore::Log::NotedRoot>> ParseNotedRoots(std::string_view text) {
  std::map<std::string, eventstore::Log::NotedRoot> noted;
  while (!text.empty()) {
    const std::string_view one = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), one.size() + 1));
    const size_t at = one.find('@');
    const size_t colon = at == std::string_view::npos ? at : one.find(':', at);
    if (colon != std::string_view::npos) {
      const auto size = core::ParseUint64(one.substr(at + 1, colon - at - 1));
      const auto hash = core::ParseHash(one.substr(colon + 1));
      if (size && hash) {
        noted[std::string(one.substr(0, at))] = {*size, *hash};
        continue;
      }
    }
    return Invalid("root: \"" + std::string(one.substr(0, 120)) + "\" is not a noted root",
                   "write LOG@SIZE:0xHASH, as `leat verify` prints it; several are joined by ','");
  }
  return noted;
}

void SetError(const Error& error, HttpResponse* response) {
  response->SetProblem(StatusOf(error.error_class), error.Text());
}

// ---- routes -----------------------------------------------------------------------------------------------------

struct Api::Impl {
  explicit Impl(Services services) : services_(std::move(services)), starts_(services_.partitions) {
    for (uint32_t i = 0; i < services_.partitions; ++i) {
      const auto blocks = services_.transport->End(ingest::kChainBlocksTopic, i);
      starts_[i].blocks = blocks ? blocks->offset : 0;  // without the topic Health fails anyway
    }
  }

  using View = std::shared_ptr<const runtime::View>;

  // What a request is about: a chain, and the process's own part that knows it.
  struct Scope {
    std::string chain;  // as named; empty: by default
    uint32_t partition = 0;
    balances::Service* balances = nullptr;
  };

  uint32_t PartitionOf(std::string_view chain) const {
    if (services_.partitions == 1) return 0;
    return bus::PartitionOf(chain.empty() ? services_.default_chain : chain, services_.partitions);
  }
  bool Owns(std::string_view role, uint32_t partition) const {
    return !services_.owns || services_.owns(role, partition);
  }
  template <typename T>
  static T* PartOf(const std::vector<T*>& parts, uint32_t partition) {
    return partition < parts.size() ? parts[partition] : nullptr;
  }
  std::unexpected<Error> NotHere(std::string_view role, uint32_t partition) const {
    return Fail(ErrorClass::kUnavailable,
                "this process does not have partition " + std::to_string(partition) + " of role " +
                    std::string(role),
                "see `leat cluster` for who has it");
  }

  Result<Scope> ScopeOf(std::string_view chain) const {
    Scope scope;
    scope.chain = chain;
    scope.partition = PartitionOf(chain);
    scope.balances = PartOf(services_.balances, scope.partition);
    if (scope.balances == nullptr) return NotHere(kBalancesRole, scope.partition);
    return scope;
  }
  Result<Scope> ScopeOf(const Params& params, std::string_view named = {}) const {
    return ScopeOf(named.empty() ? std::string_view(params.Text("chain")) : named);
  }

  // A part that was never at work has none.
  Result<View> ViewOf(const Scope& scope) const {
    View view = scope.balances->view();
    if (view == nullptr) return NotHere(kBalancesRole, scope.partition);
    return view;
  }

  std::string ChainOf(const Scope& scope, const Queries& queries) const {
    if (!scope.chain.empty()) return scope.chain;
    // Where there is one chain only, it is meant.
    const auto& chains = queries.summary().chains;
    return chains.size() == 1 && services_.partitions == 1 ? chains.begin()->first
                                                           : services_.default_chain;
  }

  // Waits until the balances reflect an event, and tells below which ledger position they do.
  Result<uint64_t> WaitFor(const Scope& scope, const events::Position& position) const {
    const auto deadline = std::chrono::steady_clock::now() + kWaitMax;
    const auto left = [&] {
      return std::max(std::chrono::milliseconds(0),
                      std::chrono::duration_cast<std::chrono::milliseconds>(
                          deadline - std::chrono::steady_clock::now()));
    };
    const std::string token = events::FormatPositions({position});
    if (position.partition != scope.partition) {
      return Invalid("position " + token + " is of another partition than the chain's, " +
                         std::to_string(scope.partition),
                     "use a position that an answer about this chain gave");
    }
    LEAT_ASSIGN(const auto end, runtime::EndOf(services_.transport, position.topic,
                                               position.partition, position.offset + 1));
    if (position.incarnation != 0 && position.incarnation != end.incarnation) {
      return Fail(ErrorClass::kConflict, "position " + token + " is of another life of its log",
                  "use a position of an answer since the log was created anew");
    }
    if (position.offset >= end.offset) {
      return Fail(ErrorClass::kNotFound, "position " + token + " is beyond the end, " +
                                             std::to_string(end.offset),
                  "use a position that an answer gave");
    }
    const auto late = [&] {
      return Fail(ErrorClass::kUnavailable, "the balances do not reflect " + token + " yet",
                  "ask again in a moment");
    };
    if (position.topic == ledger::kLedgerEntriesTopic) {
      if (!scope.balances->WaitApplied(position.offset + 1, left())) return late();
      return position.offset + 1;
    }
    if (position.topic == ingest::kChainBlocksTopic) {
      const auto decided = WaitDecided(scope.partition, position.offset + 1, left());
      if (!decided && decided.error().Retryable()) return late();
      LEAT_TRY(decided);
      if (!scope.balances->WaitApplied(*decided, left())) return late();
      LEAT_ASSIGN(const View view, ViewOf(scope));
      LEAT_ASSIGN(const auto after, Queries(*view).AfterCause(position.topic, position.partition,
                                                              position.offset));
      return after.value_or(0);
    }
    return Invalid("balances do not depend on topic " + position.topic,
                   "use a position of chain.blocks or ledger.entries");
  }

  // Waits until the ledger has decided on all blocks below an offset, wherever it runs; tells the offset behind what
  // was decided. Errors: kUnavailable when that takes longer.
  Result<uint64_t> WaitDecided(uint32_t partition, uint64_t below,
                               std::chrono::milliseconds timeout) const {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    const auto late = [] { return Fail(ErrorClass::kUnavailable, "the ledger is behind"); };
    ledger::Service* const own = PartOf(services_.ledgers, partition);
    if (own != nullptr && Owns(kLedgerRole, partition)) {
      if (!own->WaitApplied(below, timeout)) return late();
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          deadline - std::chrono::steady_clock::now());
      if (!own->WaitPublished(std::max(left, std::chrono::milliseconds(0)))) return late();
      return own->PublishedEnd();
    }
    if (services_.cluster == nullptr) return NotHere(kLedgerRole, partition);
    std::optional<runtime::PartStanding> owner;
    const bool reached = services_.cluster->WaitUntil(
        [&] {
          owner = services_.cluster->Owner(kLedgerRole, partition);
          return owner && owner->standing.done >= below;
        },
        timeout);
    if (!reached) return late();
    return owner->standing.published_end;
  }

  // What `at_…` and `after` ask for; waits where they name a position.
  Result<balances::Selector> SelectorOf(const Params& params, const Scope& scope) const {
    balances::Selector selector;
    if (const auto* block = params.Find("at_block")) {
      if (block->starts_with("0x")) {
        auto hash = core::ParseHash(*block);
        if (!hash) return std::unexpected(hash.error().WithContext("at_block"));
        selector.at_block_hash = *hash;
      } else {
        LEAT_ASSIGN(selector.at_block, params.Number("at_block"));
      }
    }
    if (const auto* time = params.Find("at_time")) {
      auto parsed = core::ParseTime(*time);
      if (!parsed) return std::unexpected(parsed.error().WithContext("at_time"));
      selector.at_time_us = *parsed;
    }
    if (params.Find("at_block") != nullptr && selector.at_time_us) {
      return Invalid("at_block: stands beside at_time", "give one of them");
    }
    if (const auto* token = params.Find("at_position")) {
      auto position = events::ParsePosition(*token);
      if (!position) return std::unexpected(position.error().WithContext("at_position"));
      LEAT_ASSIGN(selector.known_below, WaitFor(scope, *position));
    }
    if (const auto* token = params.Find("after")) {
      auto positions = events::ParsePositions(*token);
      if (!positions) return std::unexpected(positions.error().WithContext("after"));
      for (const auto& position : *positions) LEAT_TRY(WaitFor(scope, position));
    }
    return selector;
  }

  static bool IsPast(const balances::Selector& selector) {
    return selector.at_block || selector.at_block_hash || selector.known_below ||
           selector.at_time_us;
  }

  // The newest view, and what of a chain's answer is the same for every account; kept by each thread until a commit.
  struct Cached {
    const void* owner = nullptr;
    const balances::Service* of = nullptr;
    uint32_t partition = 0;
    uint64_t generation = 0;
    std::shared_ptr<const runtime::View> view;
    std::string asked;  // the chain that was named, if any
    std::string chain;
    Moment moment;
    std::string description;
  };
  Result<const Cached*> Newest(std::string_view chain) const {
    thread_local Cached cached;
    if (cached.owner == this && cached.asked == chain &&
        cached.generation == cached.of->generation()) {
      return &cached;
    }
    cached.owner = nullptr;
    LEAT_ASSIGN(const Scope scope, ScopeOf(chain));
    cached.of = scope.balances;
    cached.partition = scope.partition;
    // Read before the view: a commit between the two makes the view newer than its number, which costs one more look.
    const uint64_t generation = scope.balances->generation();
    LEAT_ASSIGN(View view, ViewOf(scope));
    const Queries queries(*view);
    cached.chain = ChainOf(scope, queries);
    LEAT_ASSIGN(cached.moment, queries.Resolve(cached.chain, {}));
    cached.description = DescribeMoment(cached.moment, scope.partition, view->input.incarnation);
    cached.view = std::move(view);
    cached.asked = chain;
    cached.generation = generation;
    cached.owner = this;
    return &cached;
  }

  void AppendBalance(std::string_view account, std::string_view chain, const Amount& amount,
                     std::string_view description, std::string* out) const {
    const std::string wei = amount.ToDecimal();
    out->append("{\"address\":\"").append(account);
    out->append("\",\"balance\":\"").append(amount.ToUnits(kEtherDecimals));
    out->append("\",\"balance_wei\":\"").append(wei);
    out->append("\",\"currency\":\"ETH\",\"asset\":\"").append(chain).append("/slip44:60\",");
    out->append(description).append("}");
  }

  Status CheckAsset(const Params& params, std::string_view chain) const {
    const auto* asset = params.Find("asset");
    if (asset == nullptr || *asset == "ETH" || *asset == NativeAsset(chain)) return {};
    return Fail(ErrorClass::kNotFound,
                "asset: nothing is known of \"" + asset->substr(0, 64) + "\" on " +
                    std::string(chain),
                "known is " + NativeAsset(chain));
  }

  Status Balance(std::string_view name, std::string_view query, HttpResponse* response) const {
    if (query.empty()) {  // the hot path: no parameters, the newest commit
      LEAT_ASSIGN(const AccountName account, ParseAccount(name));
      LEAT_ASSIGN(const Cached* newest, Newest(account.chain));
      const Queries queries(*newest->view);
      LEAT_ASSIGN(const balances::Balance balance,
                  queries.BalanceOf(newest->moment, account.key, true));
      const std::string& description =
          balance.inconsistent_since
              ? DescribeMoment(newest->moment, newest->partition, newest->view->input.incarnation,
                               balance.inconsistent_since)
              : newest->description;
      AppendBalance(account.text, newest->chain, balance.amount, description, &response->body());
      return {};
    }
    LEAT_ASSIGN(const Params params, Params::Parse(query));
    LEAT_TRY(params.Allow({"at_block", "at_position", "at_time", "after", "asset", "chain"}));
    LEAT_ASSIGN(const AccountName account, ParseAccount(name));
    LEAT_ASSIGN(const Scope scope, ScopeOf(params, account.chain));
    LEAT_ASSIGN(const auto selector, SelectorOf(params, scope));
    LEAT_ASSIGN(const View view, ViewOf(scope));
    const Queries queries(*view);
    const std::string chain = ChainOf(scope, queries);
    LEAT_TRY(CheckAsset(params, chain));
    LEAT_ASSIGN(const Moment moment, queries.Resolve(chain, selector));
    LEAT_ASSIGN(const auto balance, queries.BalanceOf(moment, account.key));
    AppendBalance(account.text, chain, balance.amount,
                  DescribeMoment(moment, scope.partition, view->input.incarnation, balance.inconsistent_since),
                  &response->body());
    return {};
  }

  Status Statement(std::string_view name, const Params& params, HttpResponse* response) const {
    LEAT_TRY(params.Allow({"at_block", "at_position", "at_time", "after", "asset", "chain",
                           "limit", "cursor"}));
    LEAT_ASSIGN(const AccountName account, ParseAccount(name));
    LEAT_ASSIGN(const uint64_t limit, params.Limit());
    std::optional<std::pair<uint64_t, uint32_t>> below;
    if (const auto* cursor = params.Find("cursor")) {
      const size_t dot = cursor->find('.');
      const auto position = core::ParseUint64(cursor->substr(0, dot));
      const auto leg = core::ParseUint64(dot == std::string::npos ? "" : cursor->substr(dot + 1));
      if (!position || !leg || *leg > UINT32_MAX) {
        return Invalid("cursor: \"" + cursor->substr(0, 64) + "\" is not a cursor",
                       "use next_cursor of the page before");
      }
      below = {*position, static_cast<uint32_t>(*leg)};
    }
    LEAT_ASSIGN(const Scope scope, ScopeOf(params, account.chain));
    LEAT_ASSIGN(const auto selector, SelectorOf(params, scope));
    LEAT_ASSIGN(const View view, ViewOf(scope));
    const Queries queries(*view);
    const std::string chain = ChainOf(scope, queries);
    LEAT_TRY(CheckAsset(params, chain));
    LEAT_ASSIGN(const Moment moment, queries.Resolve(chain, selector));
    LEAT_ASSIGN(const auto balance, queries.BalanceOf(moment, account.key));
    LEAT_ASSIGN(const auto entries,
                queries.Statement(moment, account.key, below, limit + 1));
    std::string& out = response->body();
    out += "{\"address\":\"" + account.text + "\",\"asset\":\"" + NativeAsset(chain) +
           "\",\"balance_wei\":\"" + balance.amount.ToDecimal() + "\"," +
           DescribeMoment(moment, scope.partition, view->input.incarnation, balance.inconsistent_since) +
           ",\"entries\":[";
    const size_t shown = std::min<size_t>(entries.size(), limit);
    for (size_t i = 0; i < shown; ++i) {
      const auto& entry = entries[i];
      out += i == 0 ? "" : ",";
      out += "{\"position\":\"" +
             events::FormatPosition(ledger::kLedgerEntriesTopic, scope.partition, entry.position,
                                    view->input.incarnation) +
             "\",\"leg\":" + std::to_string(entry.leg) +
             ",\"block_number\":" +
             (entry.kind == ledger::v1::LEG_OPENING ? "null" : std::to_string(entry.block_number)) +
             ",\"transaction_hash\":" +
             (entry.transaction_hash ? "\"" + entry.transaction_hash->Hex() + "\"" : "null") +
             ",\"kind\":\"" + LegKindName(entry.kind) + "\",\"amount_wei\":\"" +
             entry.amount.ToDecimal() + "\",\"balance_wei\":\"" + entry.balance.ToDecimal() +
             "\"}";
    }
    out += "],\"next_cursor\":";
    if (entries.size() > limit) {
      out += "\"" + std::to_string(entries[shown - 1].position) + "." +
             std::to_string(entries[shown - 1].leg) + "\"";
    } else {
      out += "null";
    }
    out += "}";
    return {};
  }

  Status AllBalances(const HttpRequest& request, const Params& params,
                     HttpResponse* response) const {
    LEAT_TRY(params.Allow({"at_block", "at_position", "at_time", "after", "chain", "format"}));
    const std::string format = params.Find("format")        ? params.Text("format")
                               : request.accept == kJsonLines ? "jsonl"
                                                              : "csv";
    if (format != "csv" && format != "jsonl") {
      return Invalid("format: \"" + format.substr(0, 32) + "\" is not known", "csv or jsonl");
    }
    LEAT_ASSIGN(const Scope scope, ScopeOf(params));
    LEAT_ASSIGN(const auto selector, SelectorOf(params, scope));
    LEAT_ASSIGN(const View view, ViewOf(scope));
    const Queries queries(*view);
    LEAT_ASSIGN(const Moment moment, queries.Resolve(ChainOf(scope, queries), selector));
    const bool csv = format == "csv";
    response->SetContentType(csv ? "text/csv" : kJsonLines);
    response->AddHeader("Leat-As-Of",
                        "{" + DescribeMoment(moment, scope.partition, view->input.incarnation) + "}");
    struct Walk {
      View view;
      Moment moment;
      std::optional<Address> after;
      bool begun = false;
    };
    auto walk = std::make_shared<Walk>(Walk{view, moment, {}, false});
    response->SetStream([walk, csv](std::string* chunk) -> Result<HttpResponse::Streamed> {
      constexpr size_t kAccountsPerChunk = 512;
      if (!walk->begun && csv) *chunk += "address,balance_wei\n";
      walk->begun = true;
      const auto append = [&](const Address& address, const Amount& amount) {
        if (amount.IsZero()) return;
        if (csv) {
          *chunk += address.Hex() + "," + amount.ToDecimal() + "\n";
        } else {
          *chunk += "{\"address\":\"" + address.Hex() + "\",\"balance_wei\":\"" +
                    amount.ToDecimal() + "\"}\n";
        }
      };
      LEAT_ASSIGN(const bool more, Queries(*walk->view).NextBalances(walk->moment, &walk->after,
                                                                    kAccountsPerChunk, append));
      return more ? HttpResponse::Streamed::kMore : HttpResponse::Streamed::kEnd;
    });
    return {};
  }

  Status Richest(const Params& params, HttpResponse* response) const {
    LEAT_TRY(params.Allow({"at_block", "at_position", "at_time", "after", "chain", "limit"}));
    LEAT_ASSIGN(const uint64_t limit, params.Limit());
    LEAT_ASSIGN(const Scope scope, ScopeOf(params));
    LEAT_ASSIGN(const auto selector, SelectorOf(params, scope));
    LEAT_ASSIGN(const View view, ViewOf(scope));
    const Queries queries(*view);
    const std::string chain = ChainOf(scope, queries);
    LEAT_ASSIGN(const Moment moment, queries.Resolve(chain, selector));
    LEAT_ASSIGN(const auto richest, queries.Richest(moment, limit));
    std::string& out = response->body();
    out += "{\"asset\":\"" + NativeAsset(chain) + "\"," +
           DescribeMoment(moment, scope.partition, view->input.incarnation) + ",\"accounts\":[";
    for (size_t i = 0; i < richest.size(); ++i) {
      out += (i == 0 ? "" : ",") + ("{\"address\":\"" + richest[i].first.Hex()) +
             "\",\"balance\":\"" + richest[i].second.ToUnits(kEtherDecimals) +
             "\",\"balance_wei\":\"" + richest[i].second.ToDecimal() + "\"}";
    }
    out += "]}";
    return {};
  }

  Status Supply(const Params& params, HttpResponse* response) const {
    LEAT_TRY(params.Allow({"at_block", "at_position", "at_time", "after", "chain"}));
    LEAT_ASSIGN(const Scope scope, ScopeOf(params));
    LEAT_ASSIGN(const auto selector, SelectorOf(params, scope));
    LEAT_ASSIGN(const View view, ViewOf(scope));
    const Queries queries(*view);
    const std::string chain = ChainOf(scope, queries);
    LEAT_ASSIGN(const Moment moment, queries.Resolve(chain, selector));
    LEAT_ASSIGN(const auto supply, queries.SupplyAt(moment));
    response->body() += "{\"asset\":\"" + NativeAsset(chain) + "\",\"supply\":\"" +
                        supply.total.ToUnits(kEtherDecimals) + "\",\"supply_wei\":\"" +
                        supply.total.ToDecimal() + "\",\"issued_wei\":\"" +
                        supply.issued.ToDecimal() + "\",\"burnt_wei\":\"" +
                        supply.burnt.ToDecimal() + "\",\"opening_wei\":\"" +
                        supply.opening.ToDecimal() + "\"," +
                        DescribeMoment(moment, scope.partition, view->input.incarnation) + "}";
    return {};
  }

  Status Blocks(const Params& params, HttpResponse* response) const {
    LEAT_TRY(params.Allow({"chain", "limit", "before"}));
    LEAT_ASSIGN(const uint64_t limit, params.Limit());
    LEAT_ASSIGN(const auto before, params.Number("before"));
    LEAT_ASSIGN(const Scope scope, ScopeOf(params));
    LEAT_ASSIGN(const View view, ViewOf(scope));
    const Queries queries(*view);
    const std::string chain = ChainOf(scope, queries);
    LEAT_ASSIGN(const auto blocks, queries.Blocks(chain, before, limit + 1));
    ordered_json out;
    out["chain"] = chain;
    out["blocks"] = ordered_json::array();
    const size_t shown = std::min<size_t>(blocks.size(), limit);
    for (size_t i = 0; i < shown; ++i) out["blocks"].push_back(BlockJson(blocks[i], chain));
    out["next_before"] = blocks.size() > limit
                             ? ordered_json(blocks[shown - 1].closed.block_number())
                             : ordered_json(nullptr);
    response->body() += out.dump();
    return {};
  }

  Status Block(std::string_view name, const Params& params, HttpResponse* response) const {
    LEAT_TRY(params.Allow({"chain"}));
    LEAT_ASSIGN(const Scope scope, ScopeOf(params));
    LEAT_ASSIGN(const View view, ViewOf(scope));
    const Queries queries(*view);
    const std::string chain = ChainOf(scope, queries);
    BlockRow block;
    if (name.starts_with("0x")) {
      LEAT_ASSIGN(const Hash hash, core::ParseHash(name));
      LEAT_ASSIGN(block, queries.BlockByHash(chain, hash));
    } else {
      auto number = core::ParseUint64(name);
      if (!number) {
        return Invalid("\"" + std::string(name.substr(0, 80)) + "\" is not a block",
                       "write its number, or its hash with 0x");
      }
      balances::Selector selector;
      selector.at_block = *number;
      LEAT_ASSIGN(Moment moment, queries.Resolve(chain, selector));
      if (moment.block->closed.block_number() != *number) {
        return Fail(ErrorClass::kNotFound, "block " + std::to_string(*number) +
                                               " is not part of this excerpt");
      }
      block = std::move(*moment.block);
    }
    response->body() += BlockJson(block, chain).dump();
    return {};
  }

  Status Events(const HttpRequest& request, const Params& params, HttpResponse* response) const {
    LEAT_TRY(params.Allow(
        {"topic", "from", "since", "to", "type", "stream", "limit", "format", "follow"}));
    EventQuery query;
    if (const auto* since = params.Find("since")) {
      auto time = core::ParseTime(*since);
      if (!time) return std::unexpected(time.error().WithContext("since"));
      query.since_us = *time;
    }
    query.topic = params.Text("topic");
    query.type = params.Text("type");
    query.stream = params.Text("stream");
    for (const auto& [name, target] : {std::pair{"from", &query.from}, {"to", &query.to}}) {
      if (const auto* token = params.Find(name)) {
        auto position = events::ParsePosition(*token);
        if (!position) return std::unexpected(position.error().WithContext(name));
        *target = std::move(*position);
      }
    }
    LEAT_ASSIGN(query.follow, params.Flag("follow"));
    const std::string format =
        params.Find("format") ? params.Text("format") : request.accept == kJsonLines ? "jsonl" : "json";
    if (format != "json" && format != "jsonl") {
      return Invalid("format: \"" + format.substr(0, 32) + "\" is not known", "json or jsonl");
    }
    if (format == "jsonl") {
      LEAT_ASSIGN(const auto limit, params.Number("limit"));
      query.limit = limit.value_or(UINT64_MAX);
      LEAT_ASSIGN(auto opened, EventReader::Open(query, services_.transport));
      response->SetContentType(kJsonLines);
      auto reader = std::shared_ptr<EventReader>(std::move(opened));
      const auto next = [reader](std::string* chunk) -> Result<HttpResponse::Streamed> {
        std::vector<EventReader::Item> items;
        while (!reader->Done() && chunk->size() < kStreamChunkBytes) {
          LEAT_TRY(reader->Step(&items));
          if (items.empty()) break;
          for (const auto& item : items) AppendItem(item, chunk);
        }
        using enum HttpResponse::Streamed;
        return reader->Done() ? kEnd : reader->CaughtUp() ? kCaughtUp : kMore;
      };
      response->SetStream(next, "\n");
      return {};
    }
    if (query.follow) {
      return Invalid("follow: goes with format=jsonl", "add format=jsonl");
    }
    LEAT_ASSIGN(query.limit, params.Limit());
    LEAT_ASSIGN(const auto reader, EventReader::Open(query, services_.transport));
    std::string& out = response->body();
    out += "{\"events\":[";
    std::vector<EventReader::Item> items;
    bool first = true;
    for (int step = 0; !reader->Done() && step < kPageStepsMax && out.size() < kPageBytesMax; ++step) {
      LEAT_TRY(reader->Step(&items));
      for (const auto& item : items) {
        out += first ? "" : ",";
        first = false;
        AppendItem(item, &out);
        out.pop_back();  // the end of the line
      }
    }
    const std::string next = reader->NextToken();
    out += "],\"next\":" + (next.empty() ? "null" : "\"" + next + "\"") + "}";
    return {};
  }

  static void AppendItem(const EventReader::Item& item, std::string* out) {
    *out += events::EventToJson(item.message->event,
                                events::FormatPosition(item.topic, item.partition,
                                                       item.message->offset, item.incarnation));
    out->push_back('\n');
  }

  // The events of a request's body, at least one.
  static Result<std::vector<events::Event>> EventsOf(const HttpRequest& request) {
    const std::string_view type =
        request.content_type.substr(0, request.content_type.find(';'));
    if (type != "application/cloudevents+json" && type != "application/cloudevents-batch+json" &&
        type != "application/json") {
      // Without this, a web page could make its reader's browser publish: a request of another type needs no leave.
      return Invalid("Content-Type: \"" + std::string(type.substr(0, 64)) + "\" is not known",
                     "send application/cloudevents+json, or a batch of them");
    }
    LEAT_ASSIGN(auto events, events::EventsFromJson(request.body));
    if (events.empty()) return Invalid("the list has no events", "send at least one");
    for (const auto& event : events) {
      if (event.view().type.starts_with("runtime.")) {
        return Invalid("type: " + std::string(event.view().type) + " is written by the runtime alone", "publish another type");
      }
    }
    return events;
  }

  static Result<std::string> TopicOf(const HttpRequest& request, const Params& params) {
    const std::string topic = params.Text("topic");
    if (topic.empty()) {
      return Invalid("topic: is missing", "name it: " + std::string(request.path) + "?topic=NAME");
    }
    LEAT_TRY(events::CheckTopicName(topic));
    return topic;
  }

  // Asks on a topic. No thread waits for the reply.
  Status Ask(const HttpRequest& request, const Params& params, HttpResponse* response) const {
    LEAT_TRY(params.Allow({"topic", "timeout_ms", "partition"}));
    LEAT_ASSIGN(const std::string topic, TopicOf(request, params));
    LEAT_ASSIGN(const bool allowed, MayWrite(topic, request, response));
    if (!allowed) return {};
    LEAT_ASSIGN(const auto timeout, params.Number("timeout_ms"));
    LEAT_ASSIGN(const auto partition, params.Number("partition"));
    runtime::AskOptions options;
    if (timeout) {
      if (*timeout == 0 || *timeout > static_cast<uint64_t>(kAskTimeoutMax.count())) {
        return Invalid("timeout_ms: " + std::to_string(*timeout) + " is out of range",
                       "1 to " + std::to_string(kAskTimeoutMax.count()));
      }
      options.timeout = std::chrono::milliseconds(*timeout);
    }
    if (partition) {
      if (*partition > UINT32_MAX) return Invalid("partition: is out of range");
      options.partition = static_cast<uint32_t>(*partition);
    }
    LEAT_ASSIGN(auto events, EventsOf(request));
    if (events.size() != 1) return Invalid("a list is no request", "send one event");
    if (!services_.requester) {
      return Fail(ErrorClass::kUnsupported, "this server does not ask by topics");
    }
    LEAT_ASSIGN(runtime::Requester* const requester, services_.requester());
    response->Defer([=, event = std::move(events[0])](std::function<void()> answered) {
      requester->AskAsync(topic, event, options, [=](Result<events::Event> reply) {
        if (reply) {
          response->SetContentType("application/cloudevents+json");
          response->body() += events::EventToJson(reply->view());
        } else {
          SetError(reply.error(), response);
        }
        answered();
      });
    });
    return {};
  }

  // Topics by which processes ask each other are for those who may do what is asked there.
  Result<bool> MayWrite(std::string_view topic, const HttpRequest& request,
                        HttpResponse* response) const {
    if (!topic.starts_with("leat.")) return true;
    bool allowed = false;
    LEAT_TRY(Authorize(request, response, &allowed));
    return allowed;
  }

  Status Publish(const HttpRequest& request, const Params& params, HttpResponse* response) const {
    LEAT_TRY(params.Allow({"topic", "partitions"}));
    LEAT_ASSIGN(const std::string topic, TopicOf(request, params));
    LEAT_ASSIGN(const bool allowed, MayWrite(topic, request, response));
    if (!allowed) return {};
    LEAT_ASSIGN(const auto events, EventsOf(request));
    LEAT_ASSIGN(const auto partitions, params.Number("partitions"));
    LEAT_TRY(EnsureTopic(topic, partitions));
    LEAT_ASSIGN(const auto positions, services_.transport->Publish(topic, events));
    // The token names the last event on every partition that was written.
    std::map<uint32_t, events::Position> last;
    for (const auto& position : positions) last[position.partition] = position;
    std::vector<events::Position> token;
    for (auto& [partition, position] : last) token.push_back(position);
    ordered_json out;
    out["topic"] = topic;
    out["published"] = positions.size();
    out["position"] = events::FormatPositions(token);
    out["positions"] = ordered_json::array();
    for (const auto& position : positions) {
      out["positions"].push_back(events::FormatPositions({position}));
    }
    response->SetStatus(201);
    response->body() += out.dump();
    return {};
  }

  // The first event makes its topic.
  Status EnsureTopic(const std::string& topic, std::optional<uint64_t> partitions) const {
    LEAT_ASSIGN(const auto topics, services_.transport->Topics());
    for (const auto& known : topics) {
      if (known.name != topic) continue;
      if (!partitions || *partitions == known.partitions) return {};
      return Fail(ErrorClass::kConflict, "topic " + topic + " has " +
                                             std::to_string(known.partitions) + " partitions");
    }
    const uint64_t count = partitions.value_or(1);
    if (count > UINT32_MAX) return Invalid("partitions: is out of range");
    return services_.transport->CreateTopic(topic, static_cast<uint32_t>(count));
  }

  Status Topics(const Params& params, HttpResponse* response) const {
    LEAT_TRY(params.Allow({}));
    LEAT_ASSIGN(const auto topics, services_.transport->Topics());
    ordered_json out;
    out["topics"] = ordered_json::array();
    for (const auto& topic : topics) {
      ordered_json partitions = ordered_json::array();
      uint64_t events = 0;
      for (uint32_t i = 0; i < topic.partitions; ++i) {
        LEAT_ASSIGN(const auto end, services_.transport->End(topic.name, i));
        events += end.offset;
        partitions.push_back({{"partition", i}, {"events", end.offset}});
      }
      out["topics"].push_back({{"topic", topic.name},
                               {"events", events},
                               {"owner", topic.owner.empty() ? ordered_json(nullptr)
                                                             : ordered_json(topic.owner)},
                               {"partitions", std::move(partitions)}});
    }
    response->body() += out.dump();
    return {};
  }

  // A page goes on behind the last stream of the page before: "LOG/NAME".
  Status Streams(const Params& params, HttpResponse* response) const {
    LEAT_TRY(params.Allow({"log", "prefix", "after", "limit"}));
    LEAT_ASSIGN(const uint64_t limit, params.Limit());
    const std::string prefix = params.Text("prefix");
    const std::string after = params.Text("after");
    const size_t slash = std::min(after.find('/'), after.size());
    const std::string after_log = after.substr(0, slash);
    const std::string after_name = after.substr(std::min(after.size(), slash + 1));
    const std::string* wanted = params.Find("log");
    const auto logs = services_.logs();
    const auto find = [&](const std::string& name) {
      return std::find_if(logs.begin(), logs.end(), [&](const auto& log) { return log.first == name; });
    };
    if (wanted != nullptr && find(*wanted) == logs.end()) {
      return Fail(ErrorClass::kNotFound, "there is no log " + wanted->substr(0, 64));
    }
    auto log = logs.begin();
    if (!after.empty()) {
      log = find(after_log);
      if (log == logs.end() || after_name.empty() || (wanted != nullptr && *wanted != after_log)) {
        return Invalid("after: \"" + after.substr(0, 64) + "\" is not a stream of what is listed",
                       "use `next` of the page before");
      }
    }
    ordered_json out;
    out["streams"] = ordered_json::array();
    out["next"] = nullptr;
    for (; log != logs.end(); ++log) {
      const auto& [name, streams_of] = *log;
      if (wanted != nullptr && name != *wanted) continue;
      const size_t room = limit - out["streams"].size();
      LEAT_ASSIGN(auto streams, streams_of->ListStreams(
                                    prefix, name == after_log ? after_name : "", room + 1));
      const bool more = streams.size() > room;
      if (more) streams.resize(room);
      for (const auto& stream : streams) {
        out["streams"].push_back(
            {{"stream", stream.name}, {"version", stream.version}, {"log", name}});
      }
      if (more) {
        const auto& last = out["streams"].back();
        out["next"] = last["log"].get<std::string>() + "/" + last["stream"].get<std::string>();
        break;
      }
    }
    response->body() += out.dump();
    return {};
  }

  Status Verify(const Params& params, HttpResponse* response) const {
    LEAT_TRY(params.Allow({"root", "state_root", "at_block", "chain"}));
    LEAT_ASSIGN(const bool state_root, params.Flag("state_root"));
    LEAT_ASSIGN(auto noted, ParseNotedRoots(params.Text("root")));
    ordered_json out;
    out["ok"] = true;
    out["logs"] = ordered_json::array();
    std::string roots;
    for (const auto& [name, log] : services_.logs()) {
      const auto expected = noted.find(name);
      auto report = log->Verify(expected == noted.end() ? nullptr : &expected->second, nullptr);
      if (!report) return std::unexpected(report.error().WithContext("log " + name));
      if (expected != noted.end()) noted.erase(expected);
      const std::string root =
          name + "@" + std::to_string(report->events) + ":" + report->root.Hex();
      roots += (roots.empty() ? "" : ",") + root;
      out["logs"].push_back({{"log", name},
                             {"events", report->events},
                             {"records", report->records},
                             {"streams", report->streams},
                             {"root", root}});
    }
    if (!noted.empty()) {
      return Fail(ErrorClass::kNotFound, "root: there is no log " + noted.begin()->first);
    }
    LEAT_TRY(services_.verify_files());
    out["root"] = roots;  // to be noted outside, and given back as it is
    if (state_root) {
      LEAT_ASSIGN(const Scope scope, ScopeOf(params));
    LEAT_ASSIGN(const auto selector, SelectorOf(params, scope));
      LEAT_ASSIGN(const View view, ViewOf(scope));
      const Queries queries(*view);
      LEAT_ASSIGN(const Moment moment, queries.Resolve(ChainOf(scope, queries), selector));
      if (!moment.block) return Fail(ErrorClass::kNotFound, "there is no block yet");
      std::vector<std::pair<Address, Amount>> state;
      LEAT_TRY(queries.ForEachBalance(moment, [&](const Address& address, const Amount& amount) {
        state.emplace_back(address, amount);
        return !amount.IsNegative();
      }));
      if (!state.empty() && state.back().second.IsNegative()) {
        return Fail(ErrorClass::kConflict, "account " + state.back().first.Hex() +
                                               " is below zero: this is no state of a chain",
                    "a state root can be checked on a chain that is complete from genesis");
      }
      const Hash root = balances::PlainStateRoot(state);
      const std::string& expected = moment.block->closed.state_root();
      const bool same = expected == root.View();
      out["state_root"] = {{"block_number", moment.block->closed.block_number()},
                           {"accounts", state.size()},
                           {"computed", root.Hex()},
                           {"header", expected.empty() ? ordered_json(nullptr)
                                                       : ordered_json(core::ToHex(expected))},
                           {"same", same}};
      out["ok"] = same;
    }
    response->body() += out.dump();
    return {};
  }

  // ---- health

  // What stopped a part.
  Status Failure() const {
    LEAT_TRY(services_.transport->error());
    if (services_.error) LEAT_TRY(services_.error());
    return {};
  }

  // Where a partition stands on its way from facts to balances, wherever its parts run.
  struct Pipeline {
    uint64_t blocks = 0;             // offset behind the newest fact
    bool blocks_published = true;    // all that was submitted here is among them
    uint64_t ledger_applied = 0;     // of these
    bool published = false;          // what was decided on them can be read
    uint64_t decided = 0;            // offset behind that
    uint64_t balances_applied = 0;   // of these
    bool feed_known = false, ledger_known = false, balances_known = false;  // somebody is at work
  };
  Result<Pipeline> PipelineOf(uint32_t partition) const {
    constexpr std::chrono::milliseconds kNow(0);
    Pipeline out;
    if (const auto* feed = PartOf(services_.feeds, partition);
        feed != nullptr && Owns(kIngestRole, partition)) {
      out.feed_known = true;
      out.blocks_published = feed->WaitPublished(kNow);
    } else if (services_.cluster != nullptr) {
      out.feed_known = services_.cluster->Owner(kIngestRole, partition).has_value();
    }
    LEAT_ASSIGN(const auto blocks, services_.transport->End(ingest::kChainBlocksTopic, partition));
    out.blocks = blocks.offset;
    if (const auto* ledger = PartOf(services_.ledgers, partition);
        ledger != nullptr && Owns(kLedgerRole, partition)) {
      out.ledger_known = true;
      out.ledger_applied = ledger->applied();
      // Until the decisions so far can be read, there are more to come than their topic shows.
      out.published = ledger->WaitPublished(kNow);
      LEAT_ASSIGN(out.decided, ledger->PublishedEnd());
    } else if (services_.cluster != nullptr) {
      if (const auto owner = services_.cluster->Owner(kLedgerRole, partition)) {
        out.ledger_known = true;
        out.ledger_applied = owner->standing.done;
        out.published = true;
        out.decided = owner->standing.published_end;
      }
    }
    if (const auto* balances = PartOf(services_.balances, partition);
        balances != nullptr && Owns(kBalancesRole, partition)) {
      out.balances_known = true;
      out.balances_applied = balances->applied();
    } else if (services_.cluster != nullptr) {
      if (const auto owner = services_.cluster->Owner(kBalancesRole, partition)) {
        out.balances_known = true;
        out.balances_applied = owner->standing.done;
      }
    }
    return out;
  }

  Status Health(std::string_view kind, HttpResponse* response) const {
    const auto failure = Failure();
    const bool live = failure.has_value();
    ordered_json out;
    out["status"] = live ? "ok" : "failed";
    if (kind != "live") {
      uint64_t ledger_applied = 0, ledger_lag = 0, balances_applied = 0, balances_lag = 0;
      std::string missing;
      bool caught_up = true;
      for (uint32_t i = 0; i < services_.partitions; ++i) {
        LEAT_ASSIGN(const Pipeline pipeline, PipelineOf(i));
        ledger_applied += pipeline.ledger_applied;
        ledger_lag += pipeline.blocks - std::min(pipeline.blocks, pipeline.ledger_applied);
        balances_applied += pipeline.balances_applied;
        balances_lag += pipeline.decided - std::min(pipeline.decided, pipeline.balances_applied);
        caught_up &= CaughtUp(pipeline, &starts_[i]);
        for (const auto& [known, role] : {std::pair{pipeline.feed_known, kIngestRole},
                                          {pipeline.ledger_known, kLedgerRole},
                                          {pipeline.balances_known, kBalancesRole}}) {
          if (known) continue;
          missing += (missing.empty() ? "" : ", ") + std::string(role) + "-" + std::to_string(i);
        }
      }
      out["ledger"] = {{"applied", ledger_applied}, {"lag", ledger_lag}};
      out["balances"] = {{"applied", balances_applied}, {"lag", balances_lag}};
      // Ready: what is asked for is answered, and not from long ago.
      const bool ready = live && missing.empty() && caught_up &&
                         ledger_lag <= kReadyBlocksLagMax && balances_lag <= kReadyLagMax;
      if (kind == "ready" && !ready) {
        response->SetProblem(503, !live              ? failure.error().Text()
                                  : !missing.empty() ? "nobody serves " + missing
                                  : "the ledger is " + std::to_string(ledger_lag) +
                                        " events behind, the balances " +
                                        std::to_string(balances_lag));
        return {};
      }
    }
    if (!live) {
      response->SetProblem(503, failure.error().Text());
      return {};
    }
    response->body() += out.dump();
    return {};
  }
  static constexpr uint64_t kReadyLagMax = 1'000'000;
  static constexpr uint64_t kReadyBlocksLagMax = 10'000;

  // Whether the balances have reflected, at some time, all blocks that were there when the process began.
  struct Start {
    uint64_t blocks = 0;
    std::atomic<uint64_t> decided = UINT64_MAX;
    std::atomic<bool> caught_up = false;
  };
  static bool CaughtUp(const Pipeline& pipeline, Start* start) {
    if (pipeline.ledger_applied < start->blocks) return start->caught_up;
    // The first to come here knows that what was decided by now holds the decisions on these blocks.
    uint64_t unknown = UINT64_MAX;
    start->decided.compare_exchange_strong(unknown, pipeline.decided);
    if (pipeline.balances_applied >= start->decided) start->caught_up = true;
    return start->caught_up;
  }

  // ---- admin

  Status Authorize(const HttpRequest& request, HttpResponse* response, bool* allowed) const {
    *allowed = true;
    if (services_.admin_token.empty() || request.trusted) return {};
    constexpr std::string_view kBearer = "Bearer ";
    std::string_view given = request.authorization;
    given = given.starts_with(kBearer) ? given.substr(kBearer.size()) : std::string_view();
    *allowed = given.size() == services_.admin_token.size() &&
               CRYPTO_memcmp(given.data(), services_.admin_token.data(), given.size()) == 0;
    if (!*allowed) {
      response->SetProblem(401, "this route wants the token that the server left in its data folder");
      response->AddHeader("WWW-Authenticate", "Bearer");
    }
    return {};
  }

  Result<ingest::Service*> FeedOf(std::string_view chain) const {
    const uint32_t partition = PartitionOf(chain);
    ingest::Service* const service = PartOf(services_.feeds, partition);
    if (service == nullptr) return NotHere(kIngestRole, partition);
    return service;
  }

  // Blocks of one chain, each behind its length as a varint. Answered when they are published, and there to stay.
  Status SubmitBlocks(const HttpRequest& request, const Params& params,
                      HttpResponse* response) const {
    LEAT_TRY(Failure());  // what nobody would publish is not taken
    std::vector<chain::v1::BlockObserved> blocks;
    core::ByteReader reader(request.body);
    while (!reader.Empty()) {
      std::string_view bytes;
      if (!reader.TakeString(&bytes) ||
          !blocks.emplace_back().ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
        return Invalid("the body is not a list of blocks");
      }
    }
    LEAT_TRY(params.Allow({"chain"}));
    const std::string chain = params.Text("chain");
    for (const auto& block : blocks) {
      if (block.chain() == chain) continue;
      return Invalid("chain: \"" + chain.substr(0, 64) + "\" is not that of the blocks",
                     "name the chain of all of them");
    }
    LEAT_ASSIGN(ingest::Service* const service, FeedOf(chain));
    LEAT_ASSIGN(const auto report, service->SubmitAndPublish(blocks, kPublishedMax));
    response->body() += ordered_json{{"observed", report.observed},
                                     {"reverted", report.reverted},
                                     {"sidelined", report.sidelined},
                                     {"known", report.known}}.dump();
    return {};
  }

  Status SubmitOpening(const HttpRequest& request, const Params& params,
                       HttpResponse* response) const {
    chain::v1::OpeningObserved opening;
    if (!opening.ParseFromArray(request.body.data(), static_cast<int>(request.body.size()))) {
      return Invalid("the body is not a list of balances");
    }
    LEAT_TRY(params.Allow({"chain"}));
    if (params.Text("chain") != opening.chain()) return Invalid("chain: is not that of the balances");
    std::vector<std::pair<Address, Amount>> balances;
    for (const auto& balance : opening.balances()) {
      if (balance.address().size() != Address::kSize) return Invalid("an address is not 20 bytes");
      LEAT_ASSIGN(const Amount amount, Amount::FromBytes(balance.balance_wei()));
      balances.emplace_back(Address::From(balance.address()), amount);
    }
    LEAT_ASSIGN(ingest::Service* const service, FeedOf(opening.chain()));
    LEAT_TRY(service->SubmitOpening(opening.chain(), balances, kPublishedMax));
    response->body() += ordered_json{{"balances", balances.size()}}.dump();
    return {};
  }

  Status Known(const Params& params, HttpResponse* response) const {
    LEAT_TRY(params.Allow({"chain", "hash"}));
    LEAT_ASSIGN(const Hash hash, core::ParseHash(params.Text("hash")));
    LEAT_ASSIGN(const ingest::Service* const service, FeedOf(params.Text("chain")));
    LEAT_ASSIGN(const bool known, service->Knows(params.Text("chain"), hash));
    response->body() += ordered_json{{"known", known}}.dump();
    return {};
  }

  // How far the pipeline is, and where it has to get.
  Status ProgressOf(const Params& params, HttpResponse* response) const {
    LEAT_TRY(params.Allow({}));
    LEAT_TRY(Failure());
    ordered_json out;
    out["partitions"] = ordered_json::array();
    for (uint32_t i = 0; i < services_.partitions; ++i) {
      LEAT_ASSIGN(const Pipeline pipeline, PipelineOf(i));
      out["partitions"].push_back({{"blocks", pipeline.blocks},
                                   {"blocks_published", pipeline.blocks_published},
                                   {"ledger_applied", pipeline.ledger_applied},
                                   {"published", pipeline.published},
                                   {"decided", pipeline.decided},
                                   {"balances_applied", pipeline.balances_applied}});
    }
    response->body() += out.dump();
    return {};
  }

  Status Rebuild(const Params& params, HttpResponse* response) const {
    LEAT_TRY(params.Allow({"name", "compare"}));
    const std::string name = params.Text("name");
    LEAT_ASSIGN(const bool compare, params.Flag("compare"));
    if (name != "balances" && name != "ledger") {
      return Fail(ErrorClass::kNotFound, "there is no service \"" + name.substr(0, 64) +
                                             "\" to rebuild", "balances or ledger");
    }
    if (name == "ledger" && compare) {
      return Invalid("compare: goes with a projection", "rebuild balances");
    }
    uint64_t events = 0, rows = 0;
    std::string difference;
    bool any = false;
    for (uint32_t i = 0; i < services_.partitions && difference.empty(); ++i) {
      if (!Owns(name, i)) continue;
      any = true;
      if (name == "balances") {
        LEAT_ASSIGN(const auto report, services_.balances[i]->Rebuild(compare, nullptr));
        events += report.events;
        rows += report.rows;
        if (compare && !report.identical) difference = report.difference;
      } else {
        LEAT_TRY(services_.ledgers[i]->Rebuild(nullptr));
        events += services_.ledgers[i]->decided();
      }
    }
    if (!any) return NotHere(name, 0);
    ordered_json out;
    out["name"] = name;
    out["events"] = events;
    if (compare) {
      out["rows"] = rows;
      out["identical"] = difference.empty();
      if (!difference.empty()) out["difference"] = difference;
    }
    response->body() += out.dump();
    return {};
  }

  // ---- the cluster

  static std::string_view TopicOf(std::string_view role) {
    return role == kBalancesRole ? ledger::kLedgerEntriesTopic : ingest::kChainBlocksTopic;
  }

  Status WaitBalances(uint32_t partition, uint64_t below, std::chrono::milliseconds timeout) const {
    const auto late = [] { return Fail(ErrorClass::kUnavailable, "the balances are behind"); };
    const balances::Service* const own = PartOf(services_.balances, partition);
    if (own != nullptr && Owns(kBalancesRole, partition)) {
      return own->WaitApplied(below, timeout) ? Status() : late();
    }
    if (services_.cluster == nullptr) return NotHere(kBalancesRole, partition);
    const bool reached = services_.cluster->WaitUntil(
        [&] {
          const auto owner = services_.cluster->Owner(kBalancesRole, partition);
          return owner && owner->standing.done >= below;
        },
        timeout);
    return reached ? Status() : late();
  }

  Status Cluster(const Params& params, HttpResponse* response) const {
    LEAT_TRY(params.Allow({}));
    ordered_json out;
    out["instances"] = ordered_json::array();
    for (const auto& instance : services_.instances()) {
      ordered_json parts = ordered_json::array();
      for (const auto& part : instance.parts) {
        parts.push_back({{"role", part.role},
                         {"partition", part.partition},
                         {"state", runtime::PartStateName(part.state)},
                         {"epoch", part.standing.epoch}});
      }
      out["instances"].push_back(
          {{"instance", instance.instance},
           {"address", instance.address.empty() ? ordered_json(nullptr)
                                                : ordered_json(instance.address)},
           {"seen", core::FormatTime(instance.seen_us)},
           {"parts", std::move(parts)}});
    }
    response->body() += out.dump();
    return {};
  }

  // Per role and partition: who works on it, and how much of its input is left.
  Status Lag(const Params& params, HttpResponse* response) const {
    LEAT_TRY(params.Allow({}));
    const auto instances = services_.instances();
    ordered_json out;
    out["lag"] = ordered_json::array();
    for (const auto role : {kIngestRole, kLedgerRole, kBalancesRole}) {
      for (uint32_t i = 0; i < services_.partitions; ++i) {
        LEAT_ASSIGN(const auto end, services_.transport->End(TopicOf(role), i));
        bool owned = false;
        for (const auto& instance : instances) {
          for (const auto& part : instance.parts) {
            const bool works = part.state == runtime::PartState::kOwned ||
                               part.state == runtime::PartState::kFollowing;
            if (part.role != role || part.partition != i || !works) continue;
            owned |= part.state == runtime::PartState::kOwned;
            // A copy of what another process decides does not say which input that was.
            const bool known = part.state == runtime::PartState::kOwned || role == kBalancesRole;
            out["lag"].push_back(
                {{"role", role},
                 {"partition", i},
                 {"topic", TopicOf(role)},
                 {"instance", instance.instance},
                 {"state", runtime::PartStateName(part.state)},
                 {"done", known ? ordered_json(part.standing.done) : ordered_json(nullptr)},
                 {"end", end.offset},
                 {"lag", known ? ordered_json(end.offset - std::min(end.offset, part.standing.done))
                               : ordered_json(nullptr)}});
          }
        }
        if (owned) continue;
        out["lag"].push_back({{"role", role},
                              {"partition", i},
                              {"topic", TopicOf(role)},
                              {"instance", nullptr},
                              {"state", "nobody"},
                              {"done", nullptr},
                              {"end", end.offset},
                              {"lag", nullptr}});
      }
    }
    response->body() += out.dump();
    return {};
  }

  // ---- what another process answers

  // The partition of a role whose owner alone can answer; nothing for what any process can.
  std::optional<std::pair<std::string_view, uint32_t>> TargetOf(const HttpRequest& request) const {
    const std::string_view path = request.path;
    const bool balances = path.starts_with(kBalancePrefix) || path.starts_with("/api/balances") ||
                          path == "/api/supply" || path.starts_with("/api/blockchain/");
    const bool ingest = path == "/api/admin/blocks" || path == "/api/admin/opening" ||
                        path == "/api/admin/known";
    if (!balances && !ingest) return {};
    std::string chain;
    if (path.starts_with(kBalancePrefix)) {
      const std::string_view rest = path.substr(kBalancePrefix.size());
      // What cannot be read is refused here as well as there.
      if (const auto name = PercentDecode(rest.substr(0, rest.find('/')))) {
        const size_t colon = name->rfind(':');
        if (colon != std::string::npos && !name->starts_with("system:")) {
          chain = name->substr(0, colon);
        }
      }
    }
    if (chain.empty()) {
      if (const auto params = Params::Parse(request.query)) chain = params->Text("chain");
    }
    return std::pair{ingest ? kIngestRole : kBalancesRole, PartitionOf(chain)};
  }

  // Answers what this process cannot by asking the one that can; false where this one is to answer.
  Result<bool> Forward(const HttpRequest& request, HttpResponse* response) const {
    if (services_.forwarder == nullptr) return false;
    const auto target = TargetOf(request);
    if (request.forwarded && !target) {
      // Nothing but what is forwarded: whoever can write to the topic has shown no token.
      return Fail(ErrorClass::kNotFound, "this is not answered for others");
    }
    if (!target || Owns(target->first, target->second)) return false;
    if (request.forwarded) return NotHere(target->first, target->second);
    if (request.path.starts_with(kAdminPrefix)) {
      bool allowed = false;
      LEAT_TRY(Authorize(request, response, &allowed));
      if (!allowed) return true;
    }
    services_.forwarder->Forward(target->first, target->second, request, response);
    return true;
  }

  Status Route(const HttpRequest& request, HttpResponse* response) {
    LEAT_ASSIGN(const bool answered, Forward(request, response));
    if (answered) return {};
    const std::string_view path = request.path;
    const bool get = request.method == "GET" || request.method == "HEAD";
    const auto only_get = [&]() {
      if (get) return true;
      response->SetProblem(405, "this route takes GET");
      response->AddHeader("Allow", "GET, HEAD");
      return false;
    };
    const auto only_post = [&]() {
      if (request.method == "POST") return true;
      response->SetProblem(405, "this route takes POST");
      response->AddHeader("Allow", "POST");
      return false;
    };
    std::string_view name;
    bool statement = false;
    if (path.starts_with(kBalancePrefix)) {
      name = path.substr(kBalancePrefix.size());
      constexpr std::string_view kStatement = "/statement";
      statement = name.ends_with(kStatement);
      if (statement) name.remove_suffix(kStatement.size());
    }
    if (!name.empty() && name.find('/') == std::string_view::npos) {
      if (!only_get()) return {};
      LEAT_ASSIGN(const std::string account, PercentDecode(name));
      if (!statement) return Balance(account, request.query, response);
      LEAT_ASSIGN(const Params params, Params::Parse(request.query));
      return Statement(account, params, response);
    }
    if (path.starts_with("/health")) {
      if (!only_get()) return {};
      const std::string_view kind = path.substr(7);
      if (kind.empty()) return Health("", response);
      if (kind == "/live" || kind == "/ready") return Health(kind.substr(1), response);
    }
    LEAT_ASSIGN(const Params params, Params::Parse(request.query));
    if (path == "/api/balances") return only_get() ? AllBalances(request, params, response) : Status();
    if (path == "/api/balances/richest") return only_get() ? Richest(params, response) : Status();
    if (path == "/api/supply") return only_get() ? Supply(params, response) : Status();
    if (path == "/api/blockchain/blocks") return only_get() ? Blocks(params, response) : Status();
    if (path.starts_with(kBlocksPrefix) &&
        path.find('/', kBlocksPrefix.size()) == std::string_view::npos) {
      return only_get() ? Block(path.substr(kBlocksPrefix.size()), params, response) : Status();
    }
    if (path == "/api/events") {
      if (get) return Events(request, params, response);
      if (request.method == "POST") return Publish(request, params, response);
      response->SetProblem(405, "this route takes GET and POST");
      response->AddHeader("Allow", "GET, HEAD, POST");
      return {};
    }
    if (path == "/api/cluster") return only_get() ? Cluster(params, response) : Status();
    if (path == "/api/lag") return only_get() ? Lag(params, response) : Status();
    if (path == "/api/requests") return only_post() ? Ask(request, params, response) : Status();
    if (path == "/api/topics") return only_get() ? Topics(params, response) : Status();
    if (path == "/api/streams") return only_get() ? Streams(params, response) : Status();
    if (path.starts_with(kAdminPrefix)) {
      bool allowed = false;
      LEAT_TRY(Authorize(request, response, &allowed));
      if (!allowed) return {};
      name = path.substr(kAdminPrefix.size());
      if (name == "verify") return only_get() ? Verify(params, response) : Status();
      if (name == "known") return only_get() ? Known(params, response) : Status();
      if (name == "progress") return only_get() ? ProgressOf(params, response) : Status();
      if (name == "blocks") return only_post() ? SubmitBlocks(request, params, response) : Status();
      if (name == "opening") {
        return only_post() ? SubmitOpening(request, params, response) : Status();
      }
      if (name == "rebuild") return only_post() ? Rebuild(params, response) : Status();
    }
    response->SetProblem(404, "there is no route " + std::string(path.substr(0, 120)));
    return {};
  }

  const Services services_;
  mutable std::vector<Start> starts_;  // by partition
};

Result<uint64_t> Api::WaitDecided(uint32_t partition, uint64_t below,
                                  std::chrono::milliseconds timeout) const {
  return impl_->WaitDecided(partition, below, timeout);
}

Status Api::WaitBalances(uint32_t partition, uint64_t below,
                         std::chrono::milliseconds timeout) const {
  return impl_->WaitBalances(partition, below, timeout);
}

Api::Api(Services services) : impl_(std::make_unique<Impl>(std::move(services))) {}
Api::~Api() = default;

void Api::Handle(const HttpRequest& request, HttpResponse& response) {
  if (auto status = impl_->Route(request, &response); !status) {
    if (StatusOf(status.error().error_class) >= 500) {
      core::LogWarning("gateway", std::string(request.path.substr(0, 120)) + ": " +
                                      status.error().Text());
    }
    SetError(status.error(), &response);
  }
}

bool Api::IsBlocking(std::string_view, std::string_view target) {
  // A point lookup and liveness take microseconds; everything else may read much, or wait. A statement has a
  // further '/'.
  const size_t mark = std::min(target.find('?'), target.size());
  const std::string_view path = target.substr(0, mark);
  if (path == "/health/live") return false;
  if (!path.starts_with(kBalancePrefix)) return true;
  if (path.find('/', kBalancePrefix.size()) != std::string_view::npos) return true;
  // The parameters by which a lookup does not wait; any other, or one that is escaped, may be one that does.
  for (std::string_view rest = target.substr(mark); !rest.empty();) {
    rest.remove_prefix(1);
    const std::string_view pair = rest.substr(0, rest.find('&'));
    rest.remove_prefix(pair.size());
    const std::string_view name = pair.substr(0, pair.find('='));
    if (name != "at_block" && name != "at_time" && name != "asset" && name != "chain") return true;
  }
  return false;
}

size_t Api::BodyBytesMax(std::string_view, std::string_view path) {
  if (path == "/api/events") return kEventsBodyMax;
  if (path == "/api/requests") return kAskBodyMax;
  if (path.starts_with(kAdminPrefix)) return kBlocksBodyMax;
  constexpr size_t kOther = 64u << 10;
  return kOther;
}

}  // namespace leat::gateway
