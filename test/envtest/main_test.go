package envtest_test

import (
	"os"
	"testing"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/portico-ingress/portico/test/envtest"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard()) // instances log to their tests
	os.Exit(envtest.Run(m))
}
