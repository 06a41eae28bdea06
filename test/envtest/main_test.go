package envtest_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/portico-ingress/portico/test/envtest"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard()) // instances log to their tests
	code := envtest.Run(m)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
