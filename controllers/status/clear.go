package status

import (
	"context"
	"fmt"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Clear removes the addresses that an instance serving these controllers wrote
// into the status of Ingresses, and returns how many it cleared. It is for the
// time after the instance is gone: a running one writes them again. Addresses
// that others wrote stay. No namespaces means all.
func Clear(ctx context.Context, c client.Client, controllerNames, namespaces []string) (cleared int, err error) {
	manager := FieldManager(controllerNames)
	if len(namespaces) == 0 {
		namespaces = []string{""}
	}
	for _, ns := range namespaces {
		var list networkingv1.IngressList
		if err := c.List(ctx, &list, client.InNamespace(ns)); err != nil {
			return cleared, fmt.Errorf("listing Ingresses: %w", err)
		}
		for i := range list.Items {
			done, err := clearOne(ctx, c, client.ObjectKeyFromObject(&list.Items[i]), manager)
			if err != nil {
				return cleared, fmt.Errorf("clearing the status of Ingress %s/%s: %w", list.Items[i].Namespace, list.Items[i].Name, err)
			}
			if done {
				cleared++
			}
		}
	}
	return cleared, nil
}

func clearOne(ctx context.Context, c client.Client, key client.ObjectKey, manager string) (done bool, err error) {
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		done = false
		var ing networkingv1.Ingress
		if err := c.Get(ctx, key, &ing); err != nil {
			return err
		}
		if len(ing.Status.LoadBalancer.Ingress) == 0 || !wrote(&ing, manager) {
			return nil
		}
		ing.Status.LoadBalancer.Ingress = nil
		done = true
		return c.Status().Update(ctx, &ing, client.FieldOwner(manager))
	})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return done && err == nil, err
}
