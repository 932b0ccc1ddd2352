#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/backend.h"
#include "apps/commands.h"
#include "core/progress.h"

namespace leat::apps {
namespace {

using nlohmann::json;

struct QueryOptions {
  std::string address;
  std::string chain;
  std::string at_block;
  std::string at_position;
  std::string at_time;
  std::string after;
  std::string asset;
  std::string cursor;
  std::string before;
  std::string format = "csv";
  std::optional<uint64_t> limit;
  bool json = false;
};

std::string Parameters(const QueryOptions& options) {
  std::string out;
  const auto add = [&](std::string_view name, const std::string& value) {
    if (value.empty()) return;
    out += (out.empty() ? "?" : "&") + std::string(name) + "=" + gateway::PercentEncode(value);
  };
  add("chain", options.chain);
  add("at_block", options.at_block);
  add("at_position", options.at_position);
  add("at_time", options.at_time);
  add("after", options.after);
  add("asset", options.asset);
  add("cursor", options.cursor);
  add("before", options.before);
  if (options.limit) add("limit", std::to_string(*options.limit));
  return out;
}

// The answer reflects all that was published before the question, with a server, too.
Result<std::unique_ptr<Backend>> OpenCaughtUp(const Context& context) {
  LEAT_ASSIGN(auto backend, OpenBackend(context.node, Folder::kMustExist, Pipeline::kIsRead));
  core::Progress progress("catching up", "events", 0);
  LEAT_TRY(backend->CatchUp([&](uint64_t applied, uint64_t total) {
    progress.SetTotal(total);
    progress.Update(applied);
  }));
  return backend;
}

std::string Text(const json& value) {
  return value.is_string() ? value.get<std::string>() : value.is_null() ? "-" : value.dump();
}

std::string Footer(const json& answer) {
  const json& as_of = answer["as_of"];
  const json& completeness = answer["completeness"];
  std::string out = "as of block " + Text(as_of["block_number"]) + ", " + Text(as_of["time"]) +
                    "; " + Text(completeness["value"]) + ", history " +
                    Text(completeness["history"]);
  if (completeness.contains("since_block")) {
    out += " since block " + Text(completeness["since_block"]);
  }
  return out + "\n";
}

using Show = std::function<std::string(const json&)>;

Status Ask(const Context& context, const QueryOptions& options, const std::string& target,
           const Show& show) {
  LEAT_ASSIGN(const auto backend, OpenCaughtUp(context));
  LEAT_ASSIGN(const std::string answer, backend->Call("GET", target + Parameters(options)));
  Print(options.json ? answer + "\n" : show(json::parse(answer, nullptr, false)));
  return {};
}

std::string ShowBalance(const json& answer) {
  return Text(answer["balance"]) + " " + Text(answer["currency"]) + "\n" +
         Text(answer["balance_wei"]) + " wei\n" + Footer(answer);
}

std::string ShowStatement(const json& answer) {
  std::string out = "block      kind          amount_wei                     balance_wei\n";
  char line[256];
  for (const json& entry : answer["entries"]) {
    std::snprintf(line, sizeof line, "%-10s %-13s %-30s %s\n", Text(entry["block_number"]).c_str(),
                  Text(entry["kind"]).c_str(), Text(entry["amount_wei"]).c_str(),
                  Text(entry["balance_wei"]).c_str());
    out += line;
  }
  if (!answer["next_cursor"].is_null()) {
    out += "more with --cursor " + Text(answer["next_cursor"]) + "\n";
  }
  return out + Footer(answer);
}

std::string ShowBlocks(const json& answer) {
  std::string out;
  for (const json& block : answer["blocks"]) {
    out += Text(block["number"]) + " " + Text(block["hash"]) + " " + Text(block["time"]) + " " +
           Text(block["transaction_count"]) + " transactions, " + Text(block["postings"]) +
           " postings\n";
  }
  if (!answer["next_before"].is_null()) {
    out += "more with --before " + Text(answer["next_before"]) + "\n";
  }
  return out;
}

std::string ShowSupply(const json& answer) {
  return Text(answer["supply"]) + " ETH\nissued " + Text(answer["issued_wei"]) + " wei, burnt " +
         Text(answer["burnt_wei"]) + " wei, opening " + Text(answer["opening_wei"]) + " wei\n" +
         Footer(answer);
}

std::string ShowRichest(const json& answer) {
  std::string out;
  for (const json& account : answer["accounts"]) {
    out += Text(account["address"]) + " " + Text(account["balance"]) + "\n";
  }
  return out + Footer(answer);
}

Status Balances(const Context& context, const QueryOptions& options) {
  LEAT_ASSIGN(const auto backend, OpenCaughtUp(context));
  const std::string parameters = Parameters(options);
  const std::string format = options.json ? "jsonl" : options.format;
  return backend->Stream("/api/balances" + parameters + (parameters.empty() ? "?" : "&") +
                             "format=" + gateway::PercentEncode(format),
                         Print);
}

}  // namespace

void AddQuery(CLI::App* app, Context* context) {
  auto* query = app->add_subcommand("query", "Ask the read models");
  query->require_subcommand(1);
  const auto add = [&](const char* name, const char* help, bool moment) {
    auto* command = query->add_subcommand(name, help);
    auto options = std::make_shared<QueryOptions>();
    command->add_option("--chain", options->chain, "Chain id (CAIP-2)");
    command->add_flag("--json", options->json, "Print JSON");
    if (moment) {
      command->add_option("--at-block", options->at_block, "After this block: number or hash")
          ->check(CheckBlock);
      command->add_option("--at-position", options->at_position,
                          "As it was known at this position")
          ->check(CheckPosition);
      command->add_option("--at-time", options->at_time,
                          "At this time: RFC 3339 or seconds since 1970")
          ->check(CheckTime);
      command->add_option("--after", options->after, "Wait until this position is reflected")
          ->check(CheckPosition);
    }
    return std::pair{command, options};
  };
  {
    auto [command, options] = add("balance", "Balance of an account", true);
    command->add_option("address", options->address, "0x…, CAIP-10, or system:burn")->required();
    command->add_option("--asset", options->asset, "Asset (CAIP-19)");
    command->callback([context, options = options] {
      context->run = [=] {
        return Ask(*context, *options, "/api/balance/" + gateway::PercentEncode(options->address),
                   ShowBalance);
      };
    });
  }
  {
    auto [command, options] = add("statement", "Entries of an account, newest first", true);
    command->add_option("address", options->address, "0x…, CAIP-10, or system:burn")->required();
    command->add_option("--asset", options->asset, "Asset (CAIP-19)");
    command->add_option("--limit", options->limit, "Entries on a page");
    command->add_option("--cursor", options->cursor, "The next page");
    command->callback([context, options = options] {
      context->run = [=] {
        return Ask(*context, *options,
                   "/api/balance/" + gateway::PercentEncode(options->address) + "/statement",
                   ShowStatement);
      };
    });
  }
  {
    auto [command, options] = add("balances", "All non-zero balances, by address", true);
    command->add_option("--format", options->format, "csv or jsonl")
        ->check(CLI::IsMember({"csv", "jsonl"}))
        ->capture_default_str();
    command->callback([context, options = options] {
      context->run = [=] { return Balances(*context, *options); };
    });
  }
  {
    auto [command, options] = add("richest", "Accounts with the highest balances", true);
    options->limit = 10;
    command->add_option("--limit", options->limit, "How many; 10 by default");
    command->callback([context, options = options] {
      context->run = [=] { return Ask(*context, *options, "/api/balances/richest", ShowRichest); };
    });
  }
  {
    auto [command, options] = add("blocks", "Canonical blocks, newest first", false);
    options->limit = 10;
    command->add_option("--limit", options->limit, "How many; 10 by default");
    command->add_option("--before", options->before, "Only blocks below this number");
    command->callback([context, options = options] {
      context->run = [=] { return Ask(*context, *options, "/api/blockchain/blocks", ShowBlocks); };
    });
  }
  {
    auto [command, options] = add("supply", "Total supply", true);
    command->callback([context, options = options] {
      context->run = [=] { return Ask(*context, *options, "/api/supply", ShowSupply); };
    });
  }
}

}  // namespace leat::apps
