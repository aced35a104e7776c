#!/bin/sh
# Asks a running AgentAuri for its security headers and grades what comes back.
#
#   scripts/test-security-headers.sh [https://api.example.org]
#
# A: every header is there and right · B: all but Strict-Transport-Security (set ENABLE_HSTS=true) · F: others are not.
# Exits 0 only on A.
set -eu

base=${1:-http://localhost:8080}
base=${base%/}
command -v curl >/dev/null || { echo "This script needs curl." >&2; exit 3; }

# header: what its value must match (an extended regular expression)
wanted='Content-Security-Policy: default-src .none.;.*frame-ancestors .none.;.*base-uri .none.;.*form-action .none.
X-Content-Type-Options: nosniff$
X-Frame-Options: DENY$
X-XSS-Protection: 0$
Referrer-Policy: no-referrer$
Permissions-Policy: accelerometer=\(\), camera=\(\), geolocation=\(\)
Cross-Origin-Opener-Policy: same-origin$
Cross-Origin-Embedder-Policy: require-corp$
Cross-Origin-Resource-Policy: (same|cross)-origin$
X-Permitted-Cross-Domain-Policies: none$
Cache-Control: (no-store|no-cache|public, max-age=[0-9]+)$
Strict-Transport-Security: max-age=[1-9][0-9]*; includeSubDomains$'

grade=A
for path in /api/v1/health /api/v1/triggers /api/v1/nothing-is-here /api-docs/; do
    answer=$(curl --silent --show-error --max-time 10 --head "$base$path") || { echo "$base does not answer." >&2; exit 3; }
    headers=$(printf '%s\n' "$answer" | tr -d '\r')
    printf '\n%s  %s\n' "$path" "$(printf '%s\n' "$headers" | head -n 1)"
    while IFS= read -r line; do
        name=${line%%:*}
        found=$(printf '%s\n' "$headers" | grep -i "^$name:" || true)
        if printf '%s\n' "$found" | grep -Eiq "^$line"; then
            printf '  ok       %s\n' "$found"
        elif [ "$name" = Strict-Transport-Security ]; then
            printf '  missing  %s\n' "$name"
            [ "$grade" = F ] || grade=B
        else
            printf '  WRONG    %s\n' "${found:-$name is missing}"
            grade=F
        fi
    done <<WANTED
$wanted
WANTED
    if printf '%s\n' "$headers" | grep -iq '^server:'; then
        printf '  WRONG    a Server header tells what runs here\n'
        grade=F
    fi
done

printf '\nGrade: %s\n' "$grade"
[ "$grade" = A ]
