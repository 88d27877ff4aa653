# Shared by run, soak and bench: sourced, not run.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
uid_name=twinward-ci
started=$SECONDS

say() { printf '\n== %4ds  %s\n' $((SECONDS - started)) "$*"; }
die() { printf '\nFAILED: %s\n' "$*" >&2; exit 1; }

# apt_install PACKAGE
apt_install() {
	if [ -z "${apt_updated:-}" ]; then
		apt-get update -qq >/dev/null || die "apt-get update failed, and $1 is missing"
		apt_updated=1
	fi
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >/dev/null || die "cannot install $1"
}

# need TOOL PACKAGE: installs a Debian package when the tool is missing.
need() {
	command -v "$1" >/dev/null 2>&1 && return 0
	apt_install "$2"
	command -v "$1" >/dev/null 2>&1 || die "$2 is installed, yet $1 is missing"
}

# prepare: what every script here needs.
prepare() {
	[ "$(id -u)" = 0 ] || die "run this as root: it tests as root and as an ordinary uid"
	command -v go >/dev/null 2>&1 || die "Go is missing: install Go 1.26 or newer"
	need git git
	need python3 python3
	need gcc gcc
	[ -e /usr/include/stdlib.h ] || apt_install libc6-dev
	need runuser util-linux
	# Of the tests in full mode: a second Cedar engine, a real database, a browser, and a keyring.
	need node nodejs
	need npm npm
	compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || apt_install postgresql
	need chromium-headless-shell chromium-headless-shell
	need dbus-run-session dbus
	need dbus-send dbus-bin
	need gnome-keyring-daemon gnome-keyring
	# Of what must work inside a sandbox.
	need curl curl
	need ps procps
	need ssh-keygen openssh-client
	need gpg gnupg
	id "$uid_name" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$uid_name" || die "cannot make the ordinary uid $uid_name"
	work=$(mktemp -d /tmp/twinward-gate.XXXXXX)
	chmod 755 "$work"
	trap 'rm -rf "$work" 2>/dev/null || { wait; rm -rf "$work"; }' EXIT
	export TWINWARD_AGENTS="$work/agents" TWINWARD_NPM="$work/npm" # filled by prepare_npm
	git clone -q "$top" "$work/clone" || die "cannot clone the tree"
	cp -a "$work/clone" "$work/uid"
	mkdir -p "$work/home" "$work/clone.tests" "$work/uid.tests" # the tests: see keep
	chown -R "$uid_name" "$work/uid" "$work/home" "$work/uid.tests"
}

# prepare_npm: what tests run of npm, once for both uids: the agents that must
# work inside a sandbox (1.8 GB), and an engine for models; servers, clients and the
# conformance suite of MCP. None of their scripts is run.
prepare_npm() {
	npm_ci "$TWINWARD_AGENTS" sandbox/testdata/agents
	# Not with npm ci, which asks for the engine's builds for all systems, of which
	# npm has not every one. What the lock file pins is what is installed.
	npm_ci "$TWINWARD_AGENTS/engine" examples/agents/testdata/engine "npm install --no-save --omit=optional"
	# It asks for its script, which only tidies up after an older version.
	rm -f "$TWINWARD_AGENTS/node_modules/openclaw/.openclaw-lifecycle-pending"
	npm_ci "$TWINWARD_NPM" mcpx/mcptest/npmtest/testdata
}

# npm_ci PLACE FOLDER [COMMAND]: installs what the folder of the clone pins.
npm_ci() {
	mkdir -p "$1"
	cp "$work/clone/$2"/*.json "$1"
	(cd "$1" && ${3:-npm ci} --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null) || die "npm cannot install what $2 pins"
}

# prepare_peers: the sandboxes, proxies and gateways that ours are measured beside.
prepare_peers() {
	[ -x /usr/sbin/nginx ] || apt_install nginx-light
	need bwrap bubblewrap
	need socat socat
	need rg ripgrep
	mkdir -p "$work/peers"
	# Portkey's gateway answers every call with an error on newer versions of its server.
	cat >"$work/peers/package.json" <<-'END'
		{
			"private": true,
			"dependencies": {"@anthropic-ai/sandbox-runtime": "0.0.78", "@portkey-ai/gateway": "1.15.2"},
			"overrides": {"@hono/node-server": "1.13.8"}
		}
	END
	npm install --prefix "$work/peers" --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null || die "npm cannot install the peers"
	# Supergateway needs the newer version.
	npm install --prefix "$work/peers/mcp" --ignore-scripts --no-audit --no-fund --loglevel=error supergateway@4.0.0 >/dev/null || die "npm cannot install supergateway"
	export PATH="$PATH:$work/peers/node_modules/.bin:$work/peers/mcp/node_modules/.bin"
}

# as_uid COMMAND…: runs a command as the ordinary uid, in its own clone, with its own empty caches.
as_uid() {
	runuser -u "$uid_name" -- env -i \
		PATH="$PATH" HOME="$work/home" TMPDIR=/tmp LANG=C.UTF-8 \
		GOFLAGS="${GOFLAGS:-}" GOPROXY="$(go env GOPROXY)" GOSUMDB="$(go env GOSUMDB)" GOTOOLCHAIN=local \
		GORACE="${GORACE:-}" TWINWARD_FULL="${TWINWARD_FULL:-}" TWINWARD_SOAK="${TWINWARD_SOAK:-}" \
		TWINWARD_REALVAULT="${TWINWARD_REALVAULT:-}" TWINWARD_AGENTS="${TWINWARD_AGENTS:-}" TWINWARD_NPM="${TWINWARD_NPM:-}" \
		bash -c 'cd "$0" && "$@"' "${uid_dir:-$work/uid}" "$@"
}
