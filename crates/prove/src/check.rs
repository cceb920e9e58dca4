//! Compares the responses that buyers got with the stored data. No I/O.

use std::collections::{HashMap, HashSet};

use souk_store::verify::{Check, LIMIT};

use super::{
    answers::{Line, Order, Purchase, Reply, Trouble},
    found::Found,
};

/// Makes all checks of a run. `prices` are the prices of products in minor units.
pub fn checks(purchases: &[Purchase], found: &Found, prices: &HashMap<String, i64>) -> Vec<Check> {
    let by_name: HashMap<&str, &Order> = found.orders.iter().map(|order| (order.name.as_str(), order)).collect();
    vec![
        check("every request was answered, and refused only for a reason", purchases, refusals),
        check("every acknowledged order is there, as acknowledged or further", purchases, |purchase| {
            purchase.order().and_then(|order| lost(purchase, order, by_name.get(order.name.as_str()).copied(), prices))
        }),
        doubles(purchases, found),
        check("sold pieces never exceed stock: put in = on hand + sold - returned", &found.stock, |stock| {
            let kept: i64 = found.orders.iter().map(|order| kept(order, &stock.product)).sum();
            let right = stock.on_hand + kept == stock.put_in && stock.on_hand >= 0 && stock.reserved == 0;
            (!right).then(|| {
                format!(
                    "{}: {} were added, {} are on hand, {kept} sold and not returned; {} are reserved for no order",
                    stock.product, stock.put_in, stock.on_hand, stock.reserved
                )
            })
        }),
        settled(found),
        check("revenue = captured - refunded, order by order", &found.orders, revenue),
    ]
}

/// Makes a check of all items. `broken` returns what is wrong with an item.
fn check<T>(name: &'static str, all: &[T], broken: impl Fn(&T) -> Option<String>) -> Check {
    Check { name, counted: count(all.len()), broken: cut(all.iter().filter_map(broken)) }
}

fn cut(broken: impl Iterator<Item = String>) -> Vec<String> {
    broken.take(LIMIT as usize).collect()
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// Errors that the buyer of an order should not get.
fn refusals(purchase: &Purchase) -> Option<String> {
    let at = |what: &str, trouble: &Trouble| format!("{}: {what} {trouble}", purchase.request_id);
    let trouble = |what, replies: &[Reply<_>]| replies.iter().find_map(|reply| Some(at(what, reply.as_ref().err()?)));
    // A return of an order that is being cancelled may be refused, because the cancellation was first, and vice versa.
    let expected = |trouble: &Trouble| {
        !purchase.cancelled.is_empty()
            && matches!(trouble, Trouble::Refused { reason, .. } if reason == "STATE_CONFLICT")
    };
    let returned = purchase.returned.iter().flat_map(|(.., replies)| replies).filter_map(|reply| reply.as_ref().err());
    trouble("the order was", &purchase.placed)
        .or_else(|| trouble("its cancellation was", &purchase.cancelled))
        .or_else(|| Some(at("its return was", returned.into_iter().find(|trouble| !expected(trouble))?)))
}

/// What is wrong with the stored data of an acknowledged order.
fn lost(
    purchase: &Purchase,
    acknowledged: &Order,
    found: Option<&Order>,
    prices: &HashMap<String, i64>,
) -> Option<String> {
    let (name, id) = (&acknowledged.name, &purchase.request_id);
    let Some(found) = found else { return Some(format!("{name} ({id}) was acknowledged, and is not there")) };
    let cancelled = purchase.cancelled.iter().any(Result::is_ok);
    let maybe = !purchase.cancelled.is_empty() && !cancelled;
    let reachable: &[&str] = match acknowledged.state.as_str() {
        "STATE_CONFIRMED" if cancelled => &["STATE_CANCELLED"],
        "STATE_CONFIRMED" if maybe => &["STATE_CONFIRMED", "STATE_CANCELLED"],
        "STATE_CONFIRMED" => &["STATE_CONFIRMED"],
        "STATE_REJECTED" => &["STATE_REJECTED"],
        _ => &["STATE_CONFIRMED", "STATE_REJECTED"],
    };
    if !reachable.contains(&found.state.as_str()) {
        let then = if cancelled { " and cancelled" } else { "" };
        return Some(format!("{name} ({id}) was {}{then}, and is {}", acknowledged.state, found.state));
    }
    let bought: Vec<_> = found.lines.iter().map(|line| (&line.product, line.quantity)).collect();
    if found.request_id() != id || !purchase.items.iter().map(|(product, pieces)| (product, *pieces)).eq(bought) {
        return Some(format!("{name} ({id}) is not what was ordered"));
    }
    let price: i64 = purchase.items.iter().map(|(product, pieces)| prices.get(product).unwrap_or(&0) * pieces).sum();
    if found.total.minor() != price || acknowledged.total != found.total {
        let (then, now) = (acknowledged.total.minor(), found.total.minor());
        return Some(format!("{name} ({id}) costs {price}, was acknowledged at {then}, and is at {now}"));
    }
    let came_back = |number: usize, line: &Line| match &purchase.returned {
        _ if found.state == "STATE_CANCELLED" => line.back() == line.quantity,
        Some((at, pieces, replies)) if *at == number => match replies.iter().any(Result::is_ok) {
            true => line.back() == *pieces,
            // Without any response, the goods may have been returned or not.
            false => [0, *pieces].contains(&line.back()),
        },
        _ => line.back() == 0,
    };
    let wrong = (1..).zip(&found.lines).find(|(number, line)| !came_back(*number, line))?;
    Some(format!("{name} ({id}), line {}: {} pieces are back, which is not what came back", wrong.0, wrong.1.back()))
}

fn doubles(purchases: &[Purchase], found: &Found) -> Check {
    let mut orders: HashMap<&str, Vec<&str>> = HashMap::new();
    for order in &found.orders {
        orders.entry(order.request_id()).or_default().push(&order.name);
    }
    let asked: HashSet<&str> = purchases.iter().map(|purchase| purchase.request_id.as_str()).collect();
    let unasked = orders.keys().filter(|id| !asked.contains(*id)).map(|id| format!("no request was made for `{id}`"));
    let twice = purchases.iter().filter_map(|purchase| {
        let mut names: Vec<&str> = purchase.placed.iter().flatten().map(|order| order.name.as_str()).collect();
        names.extend(orders.get(purchase.request_id.as_str()).into_iter().flatten());
        names.sort_unstable();
        names.dedup();
        let mut returns: Vec<&str> = purchase
            .returned
            .iter()
            .flat_map(|(.., replies)| replies)
            .flatten()
            .map(|back| back.name.as_str())
            .collect();
        returns.dedup();
        let made = if names.len() > 1 { names } else { returns };
        (made.len() > 1).then(|| format!("{} made {}", purchase.request_id, made.join(" and ")))
    });
    Check { name: "no request_id made two orders", counted: count(purchases.len()), broken: cut(twice.chain(unasked)) }
}

/// The pieces of a product that an order took and that were not returned or cancelled.
fn kept(order: &Order, product: &str) -> i64 {
    let lines = order.lines.iter().filter(|line| order.is_sold() && line.product == product);
    lines.map(|line| line.quantity - line.back()).sum()
}

fn settled(found: &Found) -> Check {
    let unfinished = found.orders.iter().filter(|order| !order.is_final());
    let unfinished =
        unfinished.map(|order| format!("{} is {}, with {} refunded", order.name, order.state, order.refunded()));
    let late = &found.settled.late;
    Check {
        // The time is that of `RECOVERY`.
        name: "every order was final within 30 s of the last kill, or of the end",
        counted: count(found.orders.len()),
        broken: cut(late.iter().cloned().chain(unfinished)),
    }
}

fn revenue(order: &Order) -> Option<String> {
    let earned = if order.is_sold() { order.worth(|line| line.quantity - line.back()) } else { 0 };
    let (captured, refunded) = order.payment.as_ref().map_or((0, 0), |payment| {
        let captured = matches!(payment.state.as_str(), "STATE_CAPTURED" | "STATE_REFUNDED");
        (if captured { payment.amount.minor() } else { 0 }, payment.refunded.unwrap_or_default().minor())
    });
    (earned != captured - refunded).then(|| {
        format!("{} ({}) earned {earned}, but {captured} was captured and {refunded} refunded", order.name, order.state)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::{
            answers::Return,
            found::{Settled, Stock},
        },
        *,
    };

    fn money(minor: i64) -> Value {
        json!({ "units": (minor / 100).to_string(), "nanos": minor % 100 * 10_000_000 })
    }

    /// An order of three pieces at 1.50 each.
    fn order(id: &str, state: &str, back: i64) -> Order {
        let payment = match state {
            "STATE_REJECTED" => json!({ "state": "STATE_VOIDED", "amount": money(450) }),
            _ => json!({ "state": "STATE_CAPTURED", "amount": money(450), "refunded": money(back * 150) }),
        };
        let lines = json!([{
            "product": "p", "quantity": "3", "unitPrice": money(150), "returnedQuantity": back.to_string(),
        }]);
        serde_json::from_value(json!({
            "name": format!("orders/{id}"), "state": state, "lines": lines, "total": money(450),
            "refundedTotal": money(back * 150), "shippingAddress": { "addressLines": [id] }, "payment": payment,
        }))
        .unwrap()
    }

    fn purchase(id: &str, state: &str) -> Purchase {
        Purchase {
            request_id: id.into(),
            items: vec![("p".into(), 3)],
            placed: vec![Ok(order(id, state, 0))],
            cancelled: Vec::new(),
            returned: None,
        }
    }

    /// A shop with an order of each kind: kept, cancelled, partly returned, rejected.
    fn shop() -> (Vec<Purchase>, Found) {
        let mut all =
            vec![purchase("a", "STATE_CONFIRMED"), purchase("b", "STATE_CONFIRMED"), purchase("c", "STATE_CONFIRMED")];
        all.push(purchase("d", "STATE_REJECTED"));
        all[1].cancelled.push(Ok(order("b", "STATE_CANCELLED", 3)));
        let back = Return { name: "r".into(), state: "STATE_COMPLETED".into() };
        all[2].returned = Some((1, 1, vec![Ok(back)]));
        let orders = vec![
            order("a", "STATE_CONFIRMED", 0),
            order("b", "STATE_CANCELLED", 3),
            order("c", "STATE_CONFIRMED", 1),
            order("d", "STATE_REJECTED", 0),
        ];
        let stock = vec![Stock { product: "p".into(), put_in: 10, on_hand: 5, reserved: 0 }];
        (all, Found { orders, stock, settled: Settled::default() })
    }

    /// The failed checks, by number, with what is wrong.
    fn broken(purchases: &[Purchase], found: &Found) -> Vec<(usize, String)> {
        let prices = HashMap::from([("p".to_owned(), 150)]);
        let checks = checks(purchases, found, &prices);
        let row = |(index, check): (usize, Check)| Some((index, check.broken.first()?.clone()));
        checks.into_iter().enumerate().filter_map(row).collect()
    }

    #[test]
    fn a_consistent_shop_passes_every_check() {
        let (purchases, found) = shop();
        assert_eq!(broken(&purchases, &found), []);
    }

    #[test]
    fn each_planted_error_is_found_and_named() {
        type Plant = fn(&mut Vec<Purchase>, &mut Found);
        let refused = || Trouble::Refused { reason: "STATE_CONFLICT".into(), detail: String::new() };
        let plants: [(&[usize], &str, Plant); 14] = [
            (&[0], "b: ", |purchases, _| purchases[1].placed.push(Err(Trouble::Unanswered("gone".into())))),
            (&[0], "c: its return", |purchases, _| {
                if let Some((.., replies)) = &mut purchases[2].returned {
                    replies.push(Err(Trouble::Refused { reason: "STATE_CONFLICT".into(), detail: String::new() }));
                }
            }),
            (&[1, 3], "orders/a (a)", |_, found| drop(found.orders.remove(0))),
            (&[1], "orders/d (d)", |purchases, _| purchases[3].placed = vec![Ok(order("d", "STATE_CONFIRMED", 0))]),
            (&[1], "orders/b (b)", |purchases, _| purchases[1].cancelled.clear()),
            (&[1], "orders/c (c), line 1", |purchases, _| purchases[2].returned = None),
            (&[1], "orders/a (a)", |purchases, _| purchases[0].items[0].1 = 2),
            (&[2], "a made orders/a and orders/e", |purchases, _| {
                let mut other = order("a", "STATE_CONFIRMED", 0);
                other.name = "orders/e".into();
                purchases[0].placed.push(Ok(other));
            }),
            (&[2, 3], "a made orders/a and orders/e", |_, found| {
                let mut other = order("a", "STATE_CONFIRMED", 0);
                other.name = "orders/e".into();
                found.orders.push(other);
            }),
            (&[2, 3], "no request was made for `e`", |_, found| found.orders.push(order("e", "STATE_CONFIRMED", 0))),
            (&[3], "p: 10 were added, 6 are on hand", |_, found| found.stock[0].on_hand += 1),
            (&[3], "1 are reserved for no order", |_, found| found.stock[0].reserved = 1),
            (&[4], "orders/a is late", |_, found| found.settled.late.push("orders/a is late".into())),
            (&[5], "orders/a (STATE_CONFIRMED) earned 450, but 450 was captured and 150 refunded", |_, found| {
                let payment = order("a", "STATE_CONFIRMED", 1).payment;
                found.orders[0].payment = payment;
            }),
        ];
        for (expected, says, plant) in plants {
            let (mut purchases, mut found) = shop();
            plant(&mut purchases, &mut found);
            let rows = broken(&purchases, &found);
            assert_eq!(rows.iter().map(|(index, _)| *index).collect::<Vec<_>>(), expected, "{says}: {rows:?}");
            assert!(rows[0].1.contains(says), "{says}: {rows:?}");
        }
        // A return that was refused because of a cancellation does not count.
        let (mut purchases, found) = shop();
        purchases[1].returned = Some((1, 1, vec![Err(refused())]));
        assert_eq!(broken(&purchases, &found), []);
    }
}
