#!/bin/sh
# Turns flannel's subnet file into options for dockerd. Needs a POSIX shell, mkdir, mv and rm.
#
# The output is read by systemd (EnvironmentFile=) or sourced by a shell, so values stand in double quotes and
# whatever both of them treat specially in there is escaped. It is written to a temporary file that is renamed, so
# that no reader finds half of it; only a symbolic link or a device is written in place.

usage() {
	printf '%s\n' "Usage: $0 [-f SUBNET-FILE] [-d OUTPUT-FILE] [-i] [-c] [-m] [-k KEY]

Writes options for dockerd, made from flannel's subnet file and from DOCKER_OPT_* variables.

  -f FILE  flannel's subnet file (default /run/flannel/subnet.env)
  -d FILE  file to write (default /run/docker_opts.env)
  -i       write one variable per option, such as DOCKER_OPT_MTU
  -c       write one variable with all options (without -i and -c: both)
  -k KEY   name of the variable with all options (default DOCKER_OPTS)
  -m       leave --ip-masq out, for old versions of docker" >&2
	exit 1
}

fail() {
	printf '%s: %s\n' "$0" "$1" >&2
	exit 1
}

# Sets $quoted to "$1" with \ " $ ` escaped.
quote() {
	quoted='' rest=$1
	while :; do
		case $rest in
		*[\\\"\$\`]*) ;;
		*) break ;;
		esac
		plain=${rest%%[\\\"\$\`]*}
		rest=${rest#"$plain"}
		quoted="$quoted$plain\\${rest%"${rest#?}"}"
		rest=${rest#?}
	done
	quoted="\"$quoted$rest\""
}

# Names of the variables that start with DOCKER_OPT_, in ASCII order, as `set` lists them. A line that only looks
# like one (it is inside a value of several lines) names no variable, or one that is listed anyway.
option_names() {
	LC_ALL=C
	set | while IFS= read -r line; do
		name=${line%%=*}
		case $name in
		DOCKER_OPT_ | *[!A-Za-z0-9_]*) ;;
		DOCKER_OPT_*) printf '%s\n' "$name" ;;
		esac
	done
}

print_options() {
	eval "combined=\${$key-}"
	combined="$combined${combined:+ }"
	seen=' '
	for name in $(option_names); do
		case $seen in *" $name "*) continue ;; esac
		seen="$seen$name "
		eval "is_set=\${$name+yes} value=\${$name-}"
		[ -n "$is_set" ] || continue
		quote "$value"
		[ "$individually" = no ] || printf '%s\n' "$name=$quoted" || return 1
		combined="$combined $value"
	done
	quote "$combined"
	[ "$together" = no ] || printf '%s\n' "$key=$quoted"
}

input=/run/flannel/subnet.env
output=/run/docker_opts.env
key=DOCKER_OPTS
individually=no together=no with_masq=yes

while getopts 'f:d:icmk:h?' option; do
	case $option in
	f) input=$OPTARG ;;
	d) output=$OPTARG ;;
	i) individually=yes ;;
	c) together=yes ;;
	m) with_masq=no ;;
	k) key=$OPTARG ;;
	*) usage ;;
	esac
done
[ "$individually$together" != nono ] || individually=yes together=yes

case $key in
'' | [0-9]* | *[!A-Za-z0-9_]*) fail "-k $key: not the name of a variable" ;;
esac

# A name without a slash would be searched in PATH, or taken for an option.
case $input in */*) ;; *) input=./$input ;; esac
case $output in */*) ;; *) output=./$output ;; esac

if [ -f "$input" ]; then
	[ -r "$input" ] || fail "cannot read $input"
	. "$input"
fi

[ -z "${FLANNEL_SUBNET-}" ] || DOCKER_OPT_BIP="--bip=$FLANNEL_SUBNET"
[ -z "${FLANNEL_MTU-}" ] || DOCKER_OPT_MTU="--mtu=$FLANNEL_MTU"
if [ "$with_masq" = yes ]; then
	# Docker masquerades exactly when flannel does not.
	case ${FLANNEL_IPMASQ-} in
	'') ;;
	true) DOCKER_OPT_IPMASQ=--ip-masq=false ;;
	false) DOCKER_OPT_IPMASQ=--ip-masq=true ;;
	*)
		printf '%s\n' "Invalid value of FLANNEL_IPMASQ: $FLANNEL_IPMASQ" >&2
		exit 1
		;;
	esac
fi

directory=${output%/*}/
mkdir -p "$directory" || fail "cannot make the directory of $output"
[ ! -d "$output" ] || fail "cannot write $output: it is a directory"

if [ -L "$output" ] || { [ -e "$output" ] && [ ! -f "$output" ]; }; then
	print_options >"$output" || fail "cannot write $output"
	exit 0
fi
temporary=$directory.${output##*/}.$$
if ! print_options >"$temporary" || ! mv -f "$temporary" "$output"; then
	rm -f "$temporary"
	fail "cannot write $output"
fi
