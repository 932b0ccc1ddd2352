#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>
#include <unordered_set>

#include "apps/backend.h"
#include "apps/commands.h"
#include "chain/v1/chain.pb.h"
#include "core/log.h"
#include "core/progress.h"
#include "producers/ingest/block_reader.h"

namespace leat::apps {
namespace {

struct IngestOptions {
  std::vector<std::string> paths;
  std::string chain;
  bool excerpt = false;
  std::string opening_balances;
  std::string memory = "1GiB";
  bool json = false;
};

// A CSV of address,balance_wei.
Result<std::string> ReadOpening(const std::string& path, const std::string& chain) {
  std::ifstream in(path);
  if (!in) return Invalid("opening balances " + path + ": cannot be opened", "check the path");
  chain::v1::OpeningObserved opening;
  opening.set_chain(chain);
  std::unordered_set<Address> seen;
  std::string line;
  for (size_t number = 1; std::getline(in, line); ++number) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    const std::string place = path + ":" + std::to_string(number);
    if (number == 1) {
      if (line != "address,balance_wei") {
        return Invalid(place + ": the header is not address,balance_wei", "write it so");
      }
      continue;
    }
    if (line.empty()) continue;
    const size_t comma = line.find(',');
    if (comma == std::string::npos) return Invalid(place + ": has no comma");
    auto address = core::ParseAddress(std::string_view(line).substr(0, comma));
    if (!address) return std::unexpected(address.error().WithContext(place + ": address"));
    auto amount = Amount::ParseUnsigned(std::string_view(line).substr(comma + 1));
    if (!amount) return std::unexpected(amount.error().WithContext(place + ": balance_wei"));
    if (!seen.insert(*address).second) {
      return Invalid(place + ": address " + address->Hex() + " stands in the file twice",
                     "give each account once");
    }
    auto* balance = opening.add_balances();
    balance->set_address(std::string(address->View()));
    balance->set_balance_wei(amount->Magnitude());
  }
  if (opening.balances_size() == 0) return Invalid(path + ": has no balances");
  return opening.SerializeAsString();
}

// A broker or an owner that went away may be back soon: what may pass is asked again. For what may be asked twice.
template <typename Call>
auto Patiently(const Call& call) {
  constexpr auto kPatience = std::chrono::minutes(2);
  constexpr auto kPause = std::chrono::milliseconds(500);
  auto result = call();
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!result && result.error().Retryable() && std::chrono::steady_clock::now() < deadline) {
    core::LogWarning("ingest", "asked again: " + result.error().Text());
    std::this_thread::sleep_for(kPause);  // nothing tells when it is there again
    result = call();
  }
  return result;
}

Status Ingest(const Context& context, const IngestOptions& options) {
  LEAT_ASSIGN(const uint64_t memory, ParseBytes(options.memory));
  for (const std::string& path : options.paths) {
    if (!std::filesystem::exists(path)) {
      return Fail(ErrorClass::kNotFound, path + ": there is no such file or folder",
                  "check the path");
    }
  }
  std::string opening;
  if (!options.opening_balances.empty()) {
    LEAT_ASSIGN(opening, ReadOpening(options.opening_balances, options.chain));
  }
  LEAT_ASSIGN(const auto backend, OpenBackend(context.node, Folder::kMayBeNew, Pipeline::kRuns));

  ingest::ReadOptions read;
  read.paths = options.paths;
  read.chain = options.chain;
  read.excerpt = options.excerpt;
  read.memory_bytes = memory;
  read.scratch_dir = context.node.data + "/scratch/" + std::to_string(getpid());
  if (backend->node() != nullptr) {
    // The folder is ours alone: whatever lies there was left by a run that was killed.
    std::error_code ignored;
    std::filesystem::remove_all(context.node.data + "/scratch", ignored);
  }
  read.known_block = [&](const Hash& hash) {
    return Patiently([&] { return backend->KnowsBlock(options.chain, hash); });
  };
  const auto begun = Patiently([&] {
    return backend->Call(
        "GET", "/api/blockchain/blocks?limit=1&chain=" + gateway::PercentEncode(options.chain));
  });
  if (!begun && begun.error().error_class != ErrorClass::kNotFound) {
    return std::unexpected(begun.error());
  }
  read.chain_begun = begun.has_value();
  LEAT_ASSIGN(const auto reader, ingest::BlockReader::Open(read));
  if (!opening.empty()) LEAT_TRY(backend->Call(
        "POST", "/api/admin/opening?chain=" + gateway::PercentEncode(options.chain), opening));

  ingest::FeedReport report;
  {
    core::Progress progress("ingest", "blocks", reader->summary().blocks);
    std::vector<chain::v1::BlockObserved> blocks;
    size_t bytes = 0;
    uint64_t done = 0;
    constexpr size_t kSubmitBytes = 4u << 20;
    const auto submit = [&]() -> Status {
      // What is known by then is passed over.
      LEAT_ASSIGN(const auto taken, Patiently([&] { return backend->SubmitBlocks(blocks); }));
      report += taken;
      done += blocks.size();
      blocks.clear();
      bytes = 0;
      progress.Update(done);
      return {};
    };
    for (;;) {
      chain::v1::BlockObserved block;
      LEAT_ASSIGN(const bool more, reader->Next(&block));
      if (!more) break;
      bytes += block.ByteSizeLong();
      blocks.push_back(std::move(block));
      if (bytes >= kSubmitBytes) LEAT_TRY(submit());
    }
    LEAT_TRY(submit());
  }
  {
    core::Progress progress("balances", "events", 0);
    LEAT_TRY(backend->CatchUp([&](uint64_t applied, uint64_t total) {
      progress.SetTotal(total);
      progress.Update(applied);
    }));
  }
  if (Node* node = backend->node()) {
    for (uint32_t i = 0; i < node->partitions(); ++i) LEAT_TRY(node->balances(i)->Flush());
  }

  const auto& summary = reader->summary();
  const nlohmann::ordered_json out = {{"chain", options.chain},
                                      {"blocks", summary.blocks},
                                      {"transactions", summary.transactions},
                                      {"receipts", summary.receipts},
                                      {"traces", summary.traces},
                                      {"withdrawals", summary.withdrawals},
                                      {"observed", report.observed},
                                      {"reverted", report.reverted},
                                      {"sidelined", report.sidelined},
                                      {"known", report.known}};
  if (options.json) {
    Print(out.dump() + "\n");
  } else {
    Print(options.chain + ": " + core::WithThousands(summary.blocks) + " blocks read, " +
          core::WithThousands(report.observed) + " announced, " +
          core::WithThousands(report.reverted) + " reverted, " +
          core::WithThousands(report.sidelined) + " on losing branches, " +
          core::WithThousands(report.known) + " known before\n");
  }
  return {};
}

}  // namespace

void AddIngest(CLI::App* app, Context* context) {
  auto* command = app->add_subcommand("ingest", "Bring facts of a chain in");
  command->require_subcommand(1);
  auto* etl = command->add_subcommand("ethereum-etl", "From files that ethereum-etl wrote");
  auto options = std::make_shared<IngestOptions>();
  etl->add_option("paths", options->paths,
                  "Files or folders: blocks, transactions, receipts, traces, withdrawals; CSV or "
                  "JSON lines, plain or gzip")
      ->required();
  etl->add_option("--chain", options->chain, "Chain id (CAIP-2), such as eip155:1")
      ->required()
      ->check(CheckChain);
  etl->add_flag("--excerpt", options->excerpt,
                "Accept rows without headers and gaps; balances are then net changes");
  etl->add_option("--opening-balances", options->opening_balances,
                  "CSV address,balance_wei: balances before the first block");
  etl->add_option("--memory", options->memory, "Bound for rows held in memory while sorting")
      ->capture_default_str()
      ->check(CheckBytes);
  etl->add_flag("--json", options->json, "Print the outcome as JSON");
  etl->callback([=] { context->run = [=] { return Ingest(*context, *options); }; });
}

Result<uint64_t> ParseBytes(const std::string& text) {
  const size_t end = std::min(text.find_first_not_of("0123456789"), text.size());
  const std::string unit = text.substr(end);
  const int shift = unit.empty() || unit == "B"    ? 0
                    : unit == "KiB" || unit == "K" ? 10
                    : unit == "MiB" || unit == "M" ? 20
                    : unit == "GiB" || unit == "G" ? 30
                                                   : -1;
  const auto number = core::ParseUint64(text.substr(0, end));
  if (!number || shift < 0 || *number > (UINT64_MAX >> shift) || *number == 0) {
    return Invalid("\"" + text.substr(0, 32) + "\" is not a size",
                   "write a number with KiB, MiB or GiB");
  }
  return *number << shift;
}

}  // namespace leat::apps
