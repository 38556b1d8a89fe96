#!/bin/sh
# Fetches the libraries of the page of results anew, as npm has them, and checks them against SHA256SUMS.
# Another version: change it here, run `update.sh --new`, which writes SHA256SUMS, and look at the page.
set -eu
cd "$(dirname "$0")"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# fetch PACKAGE VERSION FILE NAME: a file of a package, under another name
fetch() {
    [ -d "$folder/$1" ] || {
        mkdir "$folder/$1"
        (cd "$folder" && npm pack --silent "$1@$2" | xargs -I{} tar -xzf {} -C "$1" --strip-components 1)
    }
    cp "$folder/$1/$3" "$4"
}

fetch vega 6.4.0 build/vega.min.js vega.min.js
fetch vega 6.4.0 LICENSE LICENSE.vega
fetch vega-lite 6.5.0 build/vega-lite.min.js vega-lite.min.js
fetch vega-lite 6.5.0 LICENSE LICENSE.vega-lite
fetch vega-interpreter 2.3.2 build/vega-interpreter.js vega-interpreter.js
fetch vega-interpreter 2.3.2 LICENSE LICENSE.vega-interpreter
fetch d3 7.9.0 LICENSE LICENSE.d3   # vega.min.js holds modules of d3

# npm has the interpreter as a module alone, and a page that is one file cannot import: it becomes a plain script.
sed -i '/^\/\/# sourceMappingURL/d' ./*.js
sed -i -e "s/^import \(.*\) from 'vega-util';/(() => {\nconst \1 = vega;/" \
    -e 's/^export { expression as expressionInterpreter };/globalThis.vegaInterpreter = expression;\n})();/' \
    vega-interpreter.js

if [ "${1-}" = --new ]; then
    sha256sum -- *.js LICENSE.* > SHA256SUMS
else
    sha256sum --check --quiet SHA256SUMS
fi
