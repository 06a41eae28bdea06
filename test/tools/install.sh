#!/usr/bin/env bash
# Prints the plain manifests of config/install: what the chart renders with its
# default values, without hooks and without saying that helm manages it.
#
#   install.sh HELM
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"$1" template portico charts/portico -n portico-system --no-hooks | sed '/^ *app\.kubernetes\.io\/managed-by: Helm$/d; /^ *helm\.sh\/chart: /d'
