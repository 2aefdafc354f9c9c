//! Drawing the next token: which tokens can come, how often, and what is refused.

use kinglet_core::{
    backend::{Cpu, Forward, Isa, Reference},
    config::Config,
    model::Gpt,
    rng::{Purpose, Rng},
    sample::{Sampling, Stream},
};

fn sampling(change: impl FnOnce(&mut Sampling)) -> Sampling {
    let mut sampling = Sampling::default();
    change(&mut sampling);
    sampling
}

/// How often each of tokens with these probabilities is drawn.
fn frequencies(probabilities: &[f64], sampling: &Sampling) -> Vec<f64> {
    const DRAWS: usize = 40_000;
    let mut rng = Rng::new(3, Purpose::Sample, 0, 0);
    let mut counts = vec![0; probabilities.len()];
    for _ in 0..DRAWS {
        let mut logits: Vec<f32> = probabilities.iter().map(|p| p.ln() as f32).collect();
        counts[sampling.choose(&mut logits, &[], &Default::default(), &mut rng) as usize] += 1;
    }
    counts.into_iter().map(|count| count as f64 / DRAWS as f64).collect()
}

#[track_caller]
fn near(got: &[f64], want: &[f64]) {
    let total: f64 = want.iter().sum();
    for (i, got) in got.iter().enumerate() {
        let want = want.get(i).map_or(0.0, |weight| weight / total);
        assert!((got - want).abs() < 0.012 && (want > 0.0 || *got == 0.0), "token {i}: {got}, want {want}");
    }
}

/// First the temperature, then the `k` most probable, then of these those that together reach `top_p`, then those near
/// enough to the most probable one.
#[test]
fn knobs_together_work_in_their_order() {
    // Three tokens reach 0.8, and 0.15 is more than 0.3 of 0.4. In the other order two of the three would reach 0.8.
    near(
        &frequencies(
            &[0.4, 0.3, 0.15, 0.1, 0.05],
            &sampling(|s| {
                s.min_p = 0.3;
                s.top_p = 0.8;
            }),
        ),
        &[0.4, 0.3, 0.15],
    );
    // Few probable ones and a long tail, which is a part of what 0.8 is looked for in.
    let tail = [&[0.3, 0.2, 0.1][..], &[0.02; 20]].concat();
    near(&frequencies(&tail, &sampling(|s| s.top_p = 0.799)), &tail[..13]);
    // Not after top_k, which leaves 0.6: two tokens reach 0.48 of it.
    near(
        &frequencies(
            &tail,
            &sampling(|s| {
                s.top_k = 3;
                s.top_p = 0.8;
            }),
        ),
        &[0.3, 0.2],
    );
    // A temperature of 2 takes the root of each: 0.6 of 1.8 is two tokens, where 0.6 of 1 was one.
    let steep = [0.64, 0.16, 0.16, 0.04];
    near(&frequencies(&steep, &sampling(|s| s.top_p = 0.6)), &[1.0]);
    let warm = |change: fn(&mut Sampling)| {
        sampling(|s| {
            s.temperature = 2.0;
            change(s);
        })
    };
    near(&frequencies(&steep, &warm(|s| s.top_p = 0.6)), &[0.8, 0.4]);
    // The others are a quarter as probable as the first and less; at that temperature a half, and a quarter.
    near(&frequencies(&steep, &sampling(|s| s.min_p = 0.3)), &[1.0]);
    near(&frequencies(&steep, &warm(|s| s.min_p = 0.3)), &[0.8, 0.4, 0.4]);
    near(&frequencies(&steep, &warm(|s| s.min_p = 0.24)), &[0.8, 0.4, 0.4, 0.2]);
    // All of them: the tail is equal, so with its first tokens all of it stays; 0.5 of the roots' sum of 4.14 is 2.07,
    // which 0.55, 0.45, 0.32 and six of the tail reach; of these only three are near enough.
    let all = warm(|s| {
        s.top_k = 7;
        s.top_p = 0.5;
        s.min_p = 0.27;
    });
    near(&frequencies(&tail, &all), &[0.3f64, 0.2, 0.1].map(f64::sqrt));
    near(&frequencies(&tail, &warm(|s| s.top_p = 0.5)), &tail[..9].iter().map(|p| p.sqrt()).collect::<Vec<_>>());
}

#[test]
fn barred_ids_are_not_drawn() {
    let config = Config::default().with(&["vocab_size=7", "n_layer=1", "n_head=2", "n_embd=8"]).unwrap();
    let model = Gpt::new(&config).unwrap();
    // Every token is as probable as every other.
    let mut weights = Reference.zeros(model.layout.len());
    Reference.upload(&mut weights, 0, &vec![0.0; model.layout.len()]);
    let drawn = |barred: &[u32], settings: Sampling| {
        let mut stream = Stream::new(&Reference, &model, &[1], settings, 0).unwrap().barring(barred);
        let mut drawn: Vec<u32> = (0..60).map(|_| stream.draw(&Reference, &model, &weights).unwrap().id).collect();
        drawn.sort_unstable();
        drawn.dedup();
        drawn
    };
    assert_eq!(drawn(&[], Sampling::default()), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(drawn(&[0, 5, 6, 7, 99], Sampling::default()), [1, 2, 3, 4]);
    assert_eq!(drawn(&[0, 5, 6], sampling(|s| s.top_k = 3)), [1, 2, 3, 4]);
    assert_eq!(drawn(&[0, 5, 6], sampling(|s| s.temperature = 0.0)), [1]);
}

#[test]
fn a_document_begins_anew_for_a_model_that_keeps_them_apart() {
    for position in ["learned", "rotary"] {
        let position = format!("position={position}");
        let settings = ["vocab_size=5", "block_size=6", "n_layer=2", "n_head=2", "n_embd=8", &position];
        let model = Gpt::new(&Config::default().with(&settings).unwrap()).unwrap();
        let mut weights = Reference.zeros(model.layout.len());
        Reference.upload(&mut weights, 0, &model.layout.init(5).iter().map(|x| 2.0 * x).collect::<Vec<_>>());
        let stream = |prompt: &[u32]| Stream::new(&Reference, &model, prompt, Sampling::default(), 0).unwrap();
        let mut apart = stream(&[1, 0, 2]).parting_at(Some(0));
        let (mut new, mut long) = (0, 0);
        for _ in 0..1000 {
            // What is drawn is as probable as it is for the document alone, or for the last block of it.
            let tokens = apart.tokens().to_vec();
            let start = tokens.iter().rposition(|&id| id == 0).unwrap();
            let drawn = apart.draw(&Reference, &model, &weights).unwrap();
            if model.slides() && tokens.len() - start > 6 {
                continue;
            }
            let window = &tokens[start.max(tokens.len().saturating_sub(6))..];
            let (mut cache, mut logits) = (model.cache(&Reference), vec![0.0; 5]);
            model.extend(&Reference, &weights, &mut cache, window, &mut logits);
            let want = model.logprob(&Reference, &mut cache, drawn.id);
            assert!((drawn.logprob - want).abs() < 1e-6, "{position}: {} {want}", drawn.logprob);
            new += usize::from(drawn.id == 0);
            long += usize::from(tokens.len() - start > 6);
        }
        assert!(new > 5 && (long > 5 || model.slides()), "{new} {long}");
    }
}

/// A model whose every parameter is `broken` draws nothing: an error each time, whatever the settings.
fn refuses<B: Forward>(be: &B, broken: f32) {
    let config =
        Config::default().with(&["vocab_size=7", "block_size=4", "n_layer=1", "n_head=2", "n_embd=8"]).unwrap();
    let model = Gpt::new(&config).unwrap();
    let mut weights = be.zeros(model.layout.len());
    be.upload(&mut weights, 0, &vec![broken; model.layout.len()]);
    for settings in [
        Sampling::default(),
        sampling(|s| s.temperature = 0.0),
        sampling(|s| s.top_k = 2),
        sampling(|s| s.top_p = 0.5),
        sampling(|s| s.min_p = 0.5),
        sampling(|s| s.repetition_penalty = 2.0),
    ] {
        let mut stream = Stream::new(be, &model, &[1, 2], settings, 0).unwrap();
        for _ in 0..3 {
            let error = stream.draw(be, &model, &weights).unwrap_err().to_string();
            assert!(error.contains("the model's logits are not finite"), "{error}");
        }
        assert_eq!(stream.tokens(), [1, 2], "nothing was drawn");
    }
}

#[test]
fn logits_that_are_not_finite_are_an_error() {
    for broken in [f32::NAN, f32::INFINITY] {
        refuses(&Reference, broken);
        Isa::available().into_iter().for_each(|isa| refuses(&Cpu::with_isa(isa), broken));
    }
}

#[test]
fn a_stream_without_a_beginning_or_of_unknown_tokens_is_refused() {
    let config = Config::default().with(&["vocab_size=7", "n_layer=1", "n_embd=8"]).unwrap();
    let model = Gpt::new(&config).unwrap();
    let error =
        |prompt: &[u32], settings| Stream::new(&Reference, &model, prompt, settings, 0).err().unwrap().to_string();
    assert!(error(&[], Sampling::default()).contains("a prompt needs at least one token"));
    assert!(error(&[1, 7], Sampling::default()).contains("no token with id 7"));
    assert!(error(&[1], sampling(|s| s.repetition_penalty = 1e-300)).starts_with("repetition_penalty = "));
    for bad in [f64::NAN, f64::INFINITY, -1.0] {
        assert!(error(&[1], sampling(|s| s.temperature = bad)).starts_with("temperature = "));
        assert!(error(&[1], sampling(|s| s.top_p = bad)).starts_with("top_p = "));
        assert!(error(&[1], sampling(|s| s.min_p = bad)).starts_with("min_p = "));
        assert!(error(&[1], sampling(|s| s.repetition_penalty = bad)).starts_with("repetition_penalty = "));
    }
}
