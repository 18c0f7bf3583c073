// SPDX-License-Identifier: Apache-2.0
#include "examples/image_server/image_server.h"

#include <httplib.h>

#include <charconv>
#include <chrono>
#include <filesystem>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/cache/status_page.h"

namespace image_server {
namespace {

using ::image_cache::Image;
using ::weakcache::LargeObjectCache;
using ::weakcache::Ref;

constexpr int kThumbnailWidth = 160;
constexpr int kDefaultWidth = 640;
constexpr int kWidest = 4096;

LargeObjectCache<std::string, Image> MakeDecoded(const ServerOptions& options) {
  LargeObjectCache<std::string, Image>::Options cache;
  cache.budget_bytes = options.decoded_bytes;
  cache.max_concurrent_loads = options.decoders;
  cache.weigher = [](const Image& image) { return static_cast<uint64_t>(image.bytes()); };
  // Nothing is wrong with these options.
  return *LargeObjectCache<std::string, Image>::Create(std::move(cache));
}

LargeObjectCache<ScaledKey, ScaledImage> MakeScaled(const ServerOptions& options) {
  LargeObjectCache<ScaledKey, ScaledImage>::Options cache;
  cache.budget_bytes = options.scaled_bytes;
  return *LargeObjectCache<ScaledKey, ScaledImage>::Create(std::move(cache));
}

// Returns 0 for what is no width.
int ParseWidth(const std::string& text) {
  int width = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, width);
  return error == std::errc() && rest == end && width >= 1 && width <= kWidest ? width : 0;
}

int HttpStatus(const absl::Status& status) {
  if (absl::IsNotFound(status)) return 404;
  if (absl::IsInvalidArgument(status)) return 400;
  if (absl::IsDeadlineExceeded(status) || absl::IsResourceExhausted(status)) return 503;
  return 500;
}

void Fail(httplib::Response& response, const absl::Status& status) {
  response.status = HttpStatus(status);
  response.set_content(absl::StrCat(status.message(), "\n"), "text/plain; charset=utf-8");
}

// The name of a file, in a URL and in HTML.
std::string Escape(const std::string& name) {
  static constexpr char kHex[] = "0123456789ABCDEF";
  std::string escaped;
  for (const char c : name) {
    const auto byte = static_cast<unsigned char>(c);
    if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' ||
        c == '_' || c == '-') {
      escaped += c;
    } else {
      escaped += {'%', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return escaped;
}

std::string HtmlPage(const std::string& title, const std::string& body) {
  return absl::StrCat("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>",
                      title, "</title></head>\n<body>\n", body, "</body></html>\n");
}

}  // namespace

ImageServer::ImageServer(const ServerOptions& options)
    : patience_(options.patience), decoded_(MakeDecoded(options)), scaled_(MakeScaled(options)) {
  for (const std::string& path : options.paths) {
    paths_by_name_.emplace(std::filesystem::path(path).filename().string(), path);
  }
}

absl::StatusOr<Ref<ScaledImage>> ImageServer::Get(const ScaledKey& key) {
  const auto found = paths_by_name_.find(key.name);
  if (found == paths_by_name_.end()) return absl::NotFoundError("there is no such image");
  weakcache::LoadOptions options;
  options.deadline = std::chrono::steady_clock::now() + patience_;
  return scaled_.GetOrLoad(
      key,
      [&]() -> absl::StatusOr<ScaledImage> {
        const absl::StatusOr<Ref<Image>> image = decoded_.GetOrLoad(
            found->second,
            [this](const std::string& path) { return image_cache::DecodeImage(path, ledger_); },
            options);
        if (!image.ok()) return image.status();
        return ScaleImage(**image, key.width);
      },
      options);
}

void ImageServer::Register(httplib::Server& server) {
  server.Get("/", [this](const httplib::Request&, httplib::Response& response) {
    response.set_content(IndexPage(), "text/html; charset=utf-8");
  });
  server.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
    response.set_content(Metrics(), "text/plain; version=0.0.4; charset=utf-8");
  });
  server.Get("/cachez", [this](const httplib::Request&, httplib::Response& response) {
    response.set_content(StatusPages(), "text/html; charset=utf-8");
  });
  server.Get(
      "/images/([^/]+)", [this](const httplib::Request& request, httplib::Response& response) {
        const int width = request.has_param("width") ? ParseWidth(request.get_param_value("width"))
                                                     : kDefaultWidth;
        if (width == 0) {
          return Fail(response, absl::InvalidArgumentError(
                                    absl::StrCat("width takes a number from 1 to ", kWidest)));
        }
        absl::StatusOr<Ref<ScaledImage>> image = Get({request.matches[1], width});
        if (!image.ok()) return Fail(response, image.status());
        // The bytes go out from the cached object, which the response holds until they are out.
        const size_t size = (*image)->jpeg.size();
        response.set_content_provider(
            size, "image/jpeg",
            [image = *std::move(image)](size_t offset, size_t length, httplib::DataSink& sink) {
              return sink.write(image->jpeg.data() + offset, length);
            });
      });
}

std::string ImageServer::IndexPage() const {
  std::string images;
  for (const auto& [name, path] : paths_by_name_) {
    const std::string url = absl::StrCat("/images/", Escape(name));
    absl::StrAppend(&images, "<a href=\"", url, "\"><img src=\"", url, "?width=", kThumbnailWidth,
                    "\" width=\"", kThumbnailWidth, "\" alt=\"", Escape(name), "\"></a>\n");
  }
  return HtmlPage("Images", absl::StrCat(images, "<p><a href=\"/cachez\">caches</a>, ",
                                         "<a href=\"/metrics\">metrics</a></p>\n"));
}

std::string ImageServer::StatusPages() const {
  return HtmlPage("Caches", weakcache::StatusPage(decoded_, {.title = "decoded images"}) +
                                weakcache::StatusPage(scaled_,
                                                      [](const ScaledKey& key) {
                                                        return absl::StrCat(Escape(key.name), ", ",
                                                                            key.width, " wide");
                                                      },
                                                      {.title = "scaled images"}));
}

std::string ImageServer::Metrics() const {
  return weakcache::ToPrometheus("weakcache", {{{{"cache", "decoded"}}, decoded_.Stats()},
                                               {{{"cache", "scaled"}}, scaled_.Stats()}});
}

}  // namespace image_server
