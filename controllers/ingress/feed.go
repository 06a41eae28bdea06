package ingress

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/portico-ingress/portico/tls/certstore"
)

// follow keeps the store in step with one feed until ctx ends.
func (s *secrets) follow(ctx context.Context, f *feed) {
	if f.name != "" && s.first.Wait(ctx) != nil {
		return
	}
	reflector := toolscache.NewReflectorWithOptions(
		toolscache.NewFilteredListWatchFromClient(s.core.RESTClient(), "secrets", f.namespace, f.selectOnly),
		&corev1.Secret{}, sink{s, f}, toolscache.ReflectorOptions{Name: "secrets " + f.namespace + "/" + f.name})
	backoff := newBackoff()
	for {
		err := reflector.ListAndWatchWithContext(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case apierrors.IsForbidden(err):
			s.refuse(f, err)
			if s.again.Wait(ctx) != nil {
				return
			}
		case err != nil:
			s.log.V(1).Info("watching Secrets failed, will try again", "namespace", f.namespace, "name", f.name, "error", err.Error())
		default: // the watch ran and ended
			backoff = newBackoff()
		}
		select {
		case <-time.After(backoff.Step()):
		case <-ctx.Done():
			return
		}
	}
}

func newBackoff() wait.Backoff {
	return wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.2, Steps: 10, Cap: time.Minute}
}

// selectOnly restricts a list or watch to what the feed is for.
func (f *feed) selectOnly(o *metav1.ListOptions) {
	selector := fields.OneTermEqualSelector("type", string(corev1.SecretTypeTLS))
	if f.name != "" {
		selector = fields.OneTermEqualSelector(metav1.ObjectNameField, f.name)
	}
	o.FieldSelector = selector.String()
}

// sink is where a reflector delivers the Secrets of one feed.
type sink struct {
	secrets *secrets
	feed    *feed
}

var _ toolscache.ReflectorStore = sink{}

// Add takes a new Secret.
func (k sink) Add(obj any) error {
	if secret, ok := obj.(*corev1.Secret); ok {
		k.secrets.put(k.feed, secret)
	}
	return nil
}

// Update takes a changed Secret.
func (k sink) Update(obj any) error { return k.Add(obj) }

// Delete takes a Secret that is gone.
func (k sink) Delete(obj any) error {
	if secret, ok := obj.(*corev1.Secret); ok {
		k.secrets.remove(k.feed, certstore.SecretRef{Namespace: secret.Namespace, Name: secret.Name})
	}
	return nil
}

// Replace takes all Secrets there are.
func (k sink) Replace(list []any, _ string) error {
	present := make(map[certstore.SecretRef]struct{}, len(list))
	for _, obj := range list {
		if secret, ok := obj.(*corev1.Secret); ok {
			present[certstore.SecretRef{Namespace: secret.Namespace, Name: secret.Name}] = struct{}{}
			k.secrets.put(k.feed, secret)
		}
	}
	k.secrets.complete(k.feed, present)
	return nil
}

// Resync has nothing to do: nothing is derived later.
func (k sink) Resync() error { return nil }
