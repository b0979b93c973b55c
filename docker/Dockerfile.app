# Ruby and the gems in an image, without the app's code: the code comes as releases, into the pods that run this image.
#
# Copy it into your app, beside its Gemfile, and build it there:
#
#   docker build -f Dockerfile.app -t registry.example/app:ruby-3.3-1 .
#
# It is needed anew when Ruby, a gem or a system library changes, and for nothing else. A release whose gems are not in the image
# does not boot and is undone; better that it says what it needs: publish it with
# `pitstop publish --requires ruby=3.3,file=/usr/local/bundle/generation-…`, the file that GENERATION makes below.
#
# Build arguments:
#   RUBY_IMAGE       Ruby and bundler, on a Debian (glibc) that has what your gems link with.
#   BUILD_PACKAGES   what compiling the gems takes; not in the finished image.
#   RUN_PACKAGES     what they need when they run (libpq5, libvips42, …).
#   BUNDLE_FLAGS     for `bundle install`: `--local` where the gems are in RUBY_IMAGE already.
#   GENERATION       a name for these gems, for `--requires`.

ARG RUBY_IMAGE=ruby:3.3-slim-bookworm

FROM ${RUBY_IMAGE} AS gems
ARG BUILD_PACKAGES="build-essential git libyaml-dev pkg-config"
ARG BUNDLE_FLAGS=""
ENV GEM_HOME=/usr/local/bundle BUNDLE_APP_CONFIG=/usr/local/bundle BUNDLE_FROZEN=1 BUNDLE_WITHOUT=development:test
RUN [ -z "$BUILD_PACKAGES" ] || { apt-get update && apt-get install -y --no-install-recommends $BUILD_PACKAGES; }
WORKDIR /gems
COPY Gemfile Gemfile.lock ./
RUN mkdir -p /usr/local/bundle && bundle install --jobs 4 $BUNDLE_FLAGS && rm -rf /usr/local/bundle/cache

FROM ${RUBY_IMAGE}
ARG RUN_PACKAGES=""
ARG GENERATION=1
RUN [ -z "$RUN_PACKAGES" ] || { apt-get update && apt-get install -y --no-install-recommends $RUN_PACKAGES \
      && rm -rf /var/lib/apt/lists/*; }
COPY --from=gems /usr/local/bundle/ /usr/local/bundle/
RUN touch "/usr/local/bundle/generation-$GENERATION"
# As in the chart: Puma's user is the agent's, and the root file system is read-only.
ENV GEM_HOME=/usr/local/bundle BUNDLE_APP_CONFIG=/usr/local/bundle BUNDLE_FROZEN=1 BUNDLE_WITHOUT=development:test
ENV PATH=/usr/local/bundle/bin:$PATH
USER 1000:1000
CMD ["sh", "-c", "cd /srv/app/current && exec bundle exec puma -C config/puma.rb"]
