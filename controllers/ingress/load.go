package ingress

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/tls/certstore"
)

// LoadOptions say what Load reads.
type LoadOptions struct {
	// Namespaces restricts what is read; empty means all. IngressClasses are
	// always read.
	Namespaces []string
	// DefaultTLSSecret is read besides the Secrets that Ingresses name.
	DefaultTLSSecret certstore.SecretRef
}

// pageSize is how many objects one list request asks for.
const pageSize = 500

// Load reads once what a Controller would follow, for tools that look at a
// cluster without serving it. Secrets that may not be read are no error: they
// are named in refused, each with the reason, and are missing in the result.
func Load(ctx context.Context, cfg *rest.Config, opts LoadOptions) (objects *translate.Objects, refused []string, err error) {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS = -1 // the apiserver has fair queues
	c, err := client.New(cfg, client.Options{Scheme: scheme.Scheme})
	if err != nil {
		return nil, nil, fmt.Errorf("making a client: %w", err)
	}
	l := &loader{client: c, namespaces: opts.Namespaces}
	if len(l.namespaces) == 0 {
		l.namespaces = []string{corev1.NamespaceAll}
	}
	if err := l.routes(ctx); err != nil {
		return nil, nil, err
	}
	if err := l.secrets(ctx, opts.DefaultTLSSecret); err != nil {
		return nil, nil, err
	}
	return &l.objects, l.refused, nil
}

// loader collects what Load returns.
type loader struct {
	client     client.Client
	namespaces []string
	objects    translate.Objects
	refused    []string
}

// routes reads everything but Secrets.
func (l *loader) routes(ctx context.Context) error {
	err := pages(ctx, l.client, func(list *networkingv1.IngressClassList) {
		l.objects.Classes = appendPointers(l.objects.Classes, list.Items)
	})
	if err != nil {
		return err
	}
	for _, ns := range l.namespaces {
		err := errors.Join(
			pages(ctx, l.client, func(list *networkingv1.IngressList) {
				l.objects.Ingresses = appendPointers(l.objects.Ingresses, list.Items)
			}, client.InNamespace(ns)),
			pages(ctx, l.client, func(list *corev1.ServiceList) {
				l.objects.Services = appendPointers(l.objects.Services, list.Items)
			}, client.InNamespace(ns)),
			pages(ctx, l.client, func(list *discoveryv1.EndpointSliceList) {
				l.objects.Slices = appendPointers(l.objects.Slices, list.Items)
			}, client.InNamespace(ns)),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// secrets reads the TLS Secrets, and one by one those that Ingresses name and
// that did not come this way.
func (l *loader) secrets(ctx context.Context, def certstore.SecretRef) error {
	have := make(map[certstore.SecretRef]struct{})
	for _, ns := range l.namespaces {
		err := pages(ctx, l.client, func(list *corev1.SecretList) {
			l.objects.Secrets = appendPointers(l.objects.Secrets, list.Items)
		}, client.InNamespace(ns), client.MatchingFields{"type": string(corev1.SecretTypeTLS)})
		if err != nil && !apierrors.IsForbidden(err) {
			return err
		}
	}
	for _, s := range l.objects.Secrets {
		have[certstore.SecretRef{Namespace: s.Namespace, Name: s.Name}] = struct{}{}
	}
	for _, ref := range l.named(def) {
		if _, ok := have[ref]; ok {
			continue
		}
		have[ref] = struct{}{}
		if err := l.secret(ctx, ref); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) secret(ctx context.Context, ref certstore.SecretRef) error {
	secret := new(corev1.Secret)
	err := l.client.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, secret)
	switch {
	case err == nil:
		l.objects.Secrets = append(l.objects.Secrets, secret)
	case apierrors.IsForbidden(err):
		l.refused = append(l.refused, fmt.Sprintf("Secret %s: %v", ref, err))
	case !apierrors.IsNotFound(err):
		return fmt.Errorf("reading Secret %s: %w", ref, err)
	}
	return nil
}

// named returns the Secrets that are named somewhere, in order, with
// repetitions.
func (l *loader) named(def certstore.SecretRef) []certstore.SecretRef {
	var refs []certstore.SecretRef
	if def.Name != "" {
		refs = append(refs, def)
	}
	for _, ing := range l.objects.Ingresses {
		for _, t := range ing.Spec.TLS {
			if t.SecretName != "" {
				refs = append(refs, certstore.SecretRef{Namespace: ing.Namespace, Name: t.SecretName})
			}
		}
	}
	return refs
}

// A listOf is a pointer to a list type L.
type listOf[L any] interface {
	*L
	client.ObjectList
}

// pages lists page by page, each into a list of its own, because what is taken
// points into it.
func pages[L any, P listOf[L]](ctx context.Context, c client.Client, take func(P), opts ...client.ListOption) error {
	for next := ""; ; {
		list := P(new(L))
		if err := c.List(ctx, list, append(opts, client.Limit(pageSize), client.Continue(next))...); err != nil {
			return fmt.Errorf("listing %T: %w", list, err)
		}
		take(list)
		if next = list.GetContinue(); next == "" {
			return nil
		}
	}
}

func appendPointers[T any](to []*T, items []T) []*T {
	for i := range items {
		to = append(to, &items[i])
	}
	return to
}
