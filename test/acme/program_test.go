//go:build acme

package acme

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/portico-ingress/portico/test/envtest"
	"github.com/portico-ingress/portico/test/pebble"
)

// program is the real portico. Set by TestMain.
var program string

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard()) // of the test's own client
	dir, err := os.MkdirTemp("", "portico")
	if err == nil {
		program = filepath.Join(dir, "portico")
		err = errors.Join(pebble.Assets(), build())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := envtest.Run(m)
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func build() error {
	args := append([]string{"build", "-o", program}, strings.Fields(os.Getenv("PORTICO_ACME_BUILD"))...)
	if out, err := exec.Command("go", append(args, "../../cmd/portico")...).CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// count is a number of this run: small ones hold up no commit, make full asks for
// the full ones.
func count(t testing.TB, variable string, short int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return short
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s is no number", variable, text)
	}
	return n
}
