package certs

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/portico-ingress/portico/tls/acme"
)

// Watch follows what is stored: records, to serve their certificates, and tokens,
// to answer challenges. Account keys do not come this way.
type Watch struct {
	// const after NewWatch
	core      corev1client.CoreV1Interface
	namespace string
	tokens    *acme.Tokens
	to        *Controller
	log       logr.Logger
	ready     chan struct{} // closed when everything was delivered, or refused

	mu      sync.Mutex        // protects the following
	known   map[string]string // name of a Secret: the key of its token, empty for a record
	failure string            // why nothing is delivered; empty: it is
	settled bool              // ready is closed
}

// NewWatch returns a Watch of a Storage's namespace.
func NewWatch(core corev1client.CoreV1Interface, namespace string, tokens *acme.Tokens, to *Controller, log logr.Logger) *Watch {
	return &Watch{core: core, namespace: namespace, tokens: tokens, to: to, log: log, known: make(map[string]string), ready: make(chan struct{})}
}

// Start follows until ctx ends.
func (w *Watch) Start(ctx context.Context) error {
	reflector := toolscache.NewReflectorWithOptions(
		toolscache.NewFilteredListWatchFromClient(w.core.RESTClient(), "secrets", w.namespace, func(o *metav1.ListOptions) {
			o.LabelSelector = kindLabel + " in (" + kindRecord + "," + kindToken + ")"
		}), &corev1.Secret{}, w, toolscache.ReflectorOptions{Name: "certificates in " + w.namespace})
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		begun := time.Now()
		if err := reflector.ListAndWatchWithContext(ctx); err != nil && ctx.Err() == nil {
			w.log.Info("stored certificates cannot be followed, will try again", "namespace", w.namespace, "error", err.Error())
			w.settle(err.Error(), apierrors.IsForbidden(err))
		}
		if time.Since(begun) > time.Minute {
			wait = time.Second
		}
		if !pause(ctx, wait) {
			return nil
		}
	}
}

// settle takes the news that everything was delivered, or why not; final ends the
// wait for it.
func (w *Watch) settle(failure string, final bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure = failure; final && !w.settled {
		w.settled = true
		close(w.ready)
	}
}

// Await waits until everything that is stored was delivered, or the apiserver
// has refused it, which costs what is stored and nothing else.
func (w *Watch) Await(ctx context.Context) {
	select {
	case <-w.ready:
	case <-ctx.Done():
	}
}

// State reports whether Await is over, and why nothing is delivered.
func (w *Watch) State() (settled bool, failure string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.settled, w.failure
}

// NeedLeaderElection tells controller-runtime that every replica follows.
func (*Watch) NeedLeaderElection() bool { return false }

var _ toolscache.ReflectorStore = (*Watch)(nil)

// Add takes one Secret.
func (w *Watch) Add(obj any) error {
	s, ok := obj.(*corev1.Secret)
	if !ok {
		return nil
	}
	key := ""
	if s.Labels[kindLabel] == kindToken {
		key = string(s.Data[dataKey])
		w.tokens.Set(key, s.Data[dataValue])
	} else {
		r, err := readRecord(s)
		if err != nil {
			w.log.Error(err, "a record of a certificate is ignored", "secret", s.Name)
			return nil
		}
		w.to.SetRecord(r)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.known[s.Name] = key
	return nil
}

// Update takes a Secret that changed.
func (w *Watch) Update(obj any) error { return w.Add(obj) }

// Delete takes a Secret that is gone.
func (w *Watch) Delete(obj any) error {
	if s, ok := obj.(*corev1.Secret); ok {
		w.forget(s.Name)
	}
	return nil
}

func (w *Watch) forget(name string) {
	w.mu.Lock()
	key, ok := w.known[name]
	delete(w.known, name)
	w.mu.Unlock()
	switch id, record := strings.CutPrefix(name, kindRecord+"-"); {
	case !ok:
	case key != "":
		w.tokens.Delete(key)
	case record:
		w.to.DeleteRecord(id)
	}
}

// Replace takes all there is.
func (w *Watch) Replace(list []any, _ string) error {
	there := make(map[string]struct{}, len(list))
	for _, obj := range list {
		if s, ok := obj.(*corev1.Secret); ok {
			there[s.Name] = struct{}{}
			if err := w.Add(s); err != nil {
				return err
			}
		}
	}
	w.mu.Lock()
	var gone []string
	for name := range w.known {
		if _, ok := there[name]; !ok {
			gone = append(gone, name)
		}
	}
	w.mu.Unlock()
	for _, name := range gone {
		w.forget(name)
	}
	w.settle("", true)
	return nil
}

// Resync has nothing to do: nothing is derived later.
func (*Watch) Resync() error { return nil }
