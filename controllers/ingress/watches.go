package ingress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Watches remembers why lists and watches fail, so that readiness can say it:
// an informer does not. It also logs it, in place of the informers, which would
// repeat it at every attempt. Safe for concurrent use.
type Watches struct {
	log logr.Logger // const

	mu   sync.Mutex                // protects the following
	last map[string]watchingFailed // by the object's type
}

// watchingFailed is the last error of a list or watch, and when it was logged.
type watchingFailed struct {
	text   string
	logged time.Time
}

// repeatWatchError is after how long the same error is worth another line.
const repeatWatchError = 10 * time.Minute

// NewWatches returns Watches that know of no failure.
func NewWatches(log logr.Logger) *Watches {
	return &Watches{log: log, last: map[string]watchingFailed{}}
}

// failed is a watch error handler of informers.
func (w *Watches) failed(_ context.Context, r *toolscache.Reflector, err error) {
	switch {
	case apierrors.IsResourceExpired(err), apierrors.IsGone(err), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		w.log.V(1).Info("a watch ended and begins again", "objects", r.TypeDescription(), "why", err.Error())
		return // as it happens
	}
	if !w.note(r.TypeDescription(), err, time.Now()) {
		return
	}
	advice := "nothing is lost: it is tried again, and what is known is served meanwhile"
	if apierrors.IsForbidden(err) {
		advice = forbiddenAdvice
	}
	w.log.Error(err, "listing or watching fails", "objects", r.TypeDescription(), "advice", advice)
}

const forbiddenAdvice = "give the service account the rights of the chart (helm upgrade, with rbac.create=true) or of config/install"

// note keeps an error, and reports whether it is to be logged.
func (w *Watches) note(objectType string, err error, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := watchingFailed{text: err.Error(), logged: now}
	if last := w.last[objectType]; last.text == f.text && now.Sub(last.logged) < repeatWatchError {
		return false
	}
	w.last[objectType] = f
	return true
}

// why returns the last error of an object's list or watch; empty: none.
func (w *Watches) why(object client.Object) string {
	if w == nil {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last[fmt.Sprintf("%T", object)].text
}
